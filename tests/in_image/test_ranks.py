"""Programs of several ranks, run by the image's own Python: equal to one process, resumed, refused, ended together.

See test_programs.py for how to run this file.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import time
import unittest
from pathlib import Path
from typing import Any

from test_programs import ROOT, Ended, ProgramCase

CIFAR = ["--epochs", "2", "--width", "4", "--batch-size", "31", "--max-images", "124", "--digits-passes", "1"]
IMAGENET = ["--epochs", "2", "--width", "4", "--image-size", "32", "--batch-size", "21", "--max-images", "84"]
DIGITS = ["--epochs", "2", "--batch-size", "50", "--max-images", "101"]  # the last batch is one image
QUICK = {
    "mnist": DIGITS,
    "scow-3": [*CIFAR, "--lr", "0.01"],
    "xscow-3": [*IMAGENET, "--lr", "0.01", "--batch-norm", "synced"],
}


class RankCase(ProgramCase):
    """Starts programs through the launcher, as the images do."""

    def environment(self, run: Path, ranks: int) -> dict[str, str]:
        mine = {key: value for key, value in os.environ.items() if not key.startswith("HARNESS_")}
        return mine | {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tutorials/xscow-2'}",  # mnist reads its data with the other's module
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "MPLCONFIGDIR": str(self.folder / "matplotlib"),
            "HARNESS_RUN_DIR": str(run),
            "HARNESS_GPUS_REQUESTED": "0",
            "HARNESS_VARIANT": "cpu",
            "HARNESS_DATA_DIR": str(self.data),
            "HARNESS_PROCESSES": str(ranks),
        }

    def start(self, program: Path, run: Path, ranks: int, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "harness.runtime.launch", str(program), *arguments],
            env={**self.environment(run, ranks), **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def launch(
        self, tutorial: str, ranks: int, *arguments: str, run: Path | None = None, **more: str
    ) -> tuple[Ended, Any]:
        """How the launcher ended and the step of result.json (None without one)."""
        self.runs += 1
        folder = run or self.folder / f"ranks-{self.runs}"
        program = ROOT / "tutorials" / tutorial / "train.py"
        process = self.start(program, folder, ranks, *(arguments or QUICK[tutorial]), **more)
        stdout, stderr = process.communicate(timeout=600)
        result = folder / "result.json"
        step = json.loads(result.read_text(encoding="utf-8"))["steps"]["train"] if result.exists() else None
        self.outputs = folder / "outputs" / "train"
        return Ended(process.returncode, stdout, stderr), step


class Equal(RankCase):
    """The number of ranks changes how long it takes, not what comes out."""

    def test_to_nine_digits_in_double_precision(self) -> None:
        said = {}
        for ranks in (1, 2, 3, 5):
            program = Path(__file__).with_name("equal_ranks.py")
            process = self.start(program, self.folder / f"run-{ranks}", ranks)
            stdout, stderr = process.communicate(timeout=300)
            self.assertEqual(process.returncode, 0, stderr)
            said[ranks] = json.loads(stdout)
            self.assertEqual(said[ranks]["ranks"], list(range(ranks)))
        for ranks in (2, 3, 5):
            for name in ("losses", "scores"):
                for alone, together in zip(said[1][name], said[ranks][name], strict=True):
                    self.assertAlmostEqual(alone, together, delta=1e-9 * abs(alone), msg=f"{name}, {ranks} ranks")
        self.assertNotAlmostEqual(said[1]["losses"][0], said[1]["losses"][-1], places=3)

    def test_with_dropout_and_a_last_batch_of_one_image(self) -> None:
        """mnist: where the zeros are must not depend on who draws them."""
        said = {}
        for ranks in (1, 2, 3):
            program = Path(__file__).with_name("equal_digits.py")
            process = self.start(program, self.folder / f"run-{ranks}", ranks)
            stdout, stderr = process.communicate(timeout=300)
            self.assertEqual(process.returncode, 0, stderr)
            said[ranks] = json.loads(stdout)
        for ranks in (2, 3):
            for name in ("losses", "scores"):
                for alone, together in zip(said[1][name], said[ranks][name], strict=True):
                    self.assertAlmostEqual(alone, together, delta=1e-6, msg=f"{name}, {ranks} ranks")
        self.assertNotAlmostEqual(said[1]["losses"][0], said[1]["losses"][-1], places=2)

    def test_where_a_platform_says_to_meet(self) -> None:
        """Two nodes of two ranks; a port that another listens on is a clear error."""
        program, said = Path(__file__).with_name("equal_ranks.py"), []
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            process = self.start_node(program, 0, port)
            _, stderr = process.communicate(timeout=300)
            self.assertEqual(process.returncode, 2, stderr)
            self.assertIn(f"MASTER_PORT {port}", stderr)
            self.assertIn("is another job listening there?", stderr)
        processes = [self.start_node(program, node, port) for node in (1, 0)]
        for process in processes:
            stdout, stderr = process.communicate(timeout=300)
            self.assertEqual(process.returncode, 0, stderr)
            said.append(stdout)
        self.assertEqual(said[0], "", "rank 0 alone writes")
        self.assertEqual(json.loads(said[1])["ranks"], [0, 1, 2, 3])

    def start_node(self, program: Path, node: int, port: int) -> subprocess.Popen[str]:
        told = {"RANK": str(node), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        return subprocess.Popen(
            [sys.executable, "-m", "harness.runtime.launch", str(program)],
            env={**self.environment(self.folder / "platform", 2), **told},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def test_the_programs_in_single_precision(self) -> None:
        """The loss before and after one step, to 1e-5. After a few more steps the roundings of single precision alone
        make a difference of a per cent (the order of an image's colours in memory is enough): hence the test above.
        """
        cases = (
            ("mnist", "train_loss", (1, 2, 3), "101"),
            ("scow-3", "train_loss", (1, 2, 3), "124"),
            ("xscow-3", "train_loss_curve", (1, 2, 3, 5), "85"),
        )
        for tutorial, curve, sizes, images in cases:
            losses: dict[int, list[float]] = {}
            for ranks in sizes:
                with self.subTest(tutorial, ranks=ranks):
                    one_step = [*QUICK[tutorial], "--batch-size", images, "--max-images", images]
                    process, step = self.launch(tutorial, ranks, *one_step)
                    self.assert_completed(process, step)
                    outputs = step["outputs"]
                    losses[ranks] = outputs[curve]
                    self.assertEqual(outputs["world_size"], ranks)
                    self.assertEqual([member["rank"] for member in outputs["ranks"]], list(range(ranks)))
                    self.assertEqual(len({member["pid"] for member in outputs["ranks"]}), ranks)
                    self.assertEqual(outputs["data_source"], "digits")
                    self.assertEqual(step["device"]["count"], ranks)
                    for alone, together in zip(losses[1], losses[ranks], strict=True):
                        self.assertAlmostEqual(alone, together, delta=1e-5 * alone)


class Resumed(RankCase):
    def wait_for(self, process: subprocess.Popen[str], path: Path) -> None:
        while not path.exists():
            self.assertIsNone(process.poll(), "the program ended early")
            time.sleep(0.05)  # a file that another process writes

    def test_a_killed_run_goes_on_after_its_last_checkpoint_and_ends_with_the_same_numbers(self) -> None:
        program, arguments = ROOT / "tutorials/scow-3/train.py", [*QUICK["scow-3"], "--epochs", "4"]
        _, whole = self.launch("scow-3", 2, *arguments)
        run = self.folder / "killed"
        process = self.start(program, run, 2, *arguments)
        self.wait_for(process, run / "checkpoints/epoch-0002.pt")
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        process, step = self.launch("scow-3", 2, *arguments, run=run)
        self.assert_completed(process, step)
        self.assertGreaterEqual(step["outputs"]["resumed_after_epoch"], 2)
        for name in ("train_loss", "test_accuracy_curve"):
            self.assertEqual(step["outputs"][name], whole["outputs"][name])

    def test_images_of_imagenet_go_on_too_and_in_another_attempts_folder(self) -> None:
        """The first attempt was only cut off: what it writes and removes later does not reach the second one."""
        arguments = [*QUICK["xscow-3"], "--epochs", "5"]
        _, whole = self.launch("xscow-3", 2, *arguments)
        run = self.folder / "requeued"
        process = self.start(ROOT / "tutorials/xscow-3/train.py", run, 2, *arguments)
        self.wait_for(process, run / "checkpoints/epoch-0002.pt")
        second, told = run / "attempt-1", {"HARNESS_ATTEMPT": "1", "HARNESS_RUN_ROOT": str(run)}
        again, step = self.launch("xscow-3", 2, *arguments, run=second, **told)
        process.communicate(timeout=300)
        self.assert_completed(again, step)
        self.assertGreaterEqual(step["outputs"]["resumed_after_epoch"], 2)
        self.assertIn("taken over from an earlier attempt", again.stderr)
        for name in ("train_loss_curve", "top1_curve"):
            self.assertEqual(step["outputs"][name], whole["outputs"][name], name)
        for folder in (run, second):
            names = sorted(path.name for path in (folder / "checkpoints").iterdir())
            self.assertEqual(names, [f"epoch-000{number}.pt" for number in (3, 4, 5)])

    def test_too_little_left_to_measure_is_a_whole_result_without_a_throughput(self) -> None:
        """As if killed after epoch 4 of 5, and after the last one."""
        for tutorial, curve in (("scow-3", "train_loss"), ("xscow-3", "train_loss_curve")):
            run = self.folder / f"late-{tutorial}"
            arguments = [*QUICK[tutorial], "--epochs", "5"]
            _, whole = self.launch(tutorial, 1, *arguments, run=run)
            (run / "checkpoints/epoch-0005.pt").unlink()
            for left in (1, 0):
                with self.subTest(tutorial, left=left):
                    process, step = self.launch(tutorial, 1, *arguments, run=run)
                    self.assert_completed(process, step)
                    said = {"resumed_after": 5 - left, "left": left, "of": "epochs"}
                    self.assertEqual(step["not_measured"], {"train_throughput": said})
                    self.assertEqual(step["metrics"], {})
                    self.assertEqual(step["outputs"][curve], whole["outputs"][curve])
                    if tutorial == "xscow-3":  # is judged: what the earlier starts measured counts
                        self.assertEqual(len(step["outputs"]["data_wait_share_curve"]), 5)
                        self.assertIn("data_wait_share", step["outputs"])

    def test_a_damaged_checkpoint_is_passed_over_and_one_of_another_network_refused(self) -> None:
        run = self.folder / "again"
        self.launch("scow-3", 1, *QUICK["scow-3"], "--epochs", "3", run=run)
        newest = run / "checkpoints/epoch-0003.pt"
        newest.write_bytes(newest.read_bytes()[:1000])
        process, step = self.launch("scow-3", 1, *QUICK["scow-3"], "--epochs", "4", run=run)
        self.assert_completed(process, step)
        self.assertIn("epoch-0003.pt is damaged", process.stderr)
        self.assertEqual(step["outputs"]["resumed_after_epoch"], 2)
        process, step = self.launch("scow-3", 1, *QUICK["scow-3"], "--lr", "0.5", run=run)
        self.assert_refused(process, step, "made with lr 0.01, this run has 0.5")

    def test_nothing_is_left_of_the_meeting(self) -> None:
        run = self.folder / "clean"
        process, step = self.launch("scow-3", 2, run=run)
        self.assert_completed(process, step)
        self.assertEqual(sorted(p.name for p in run.iterdir()), ["checkpoints", "outputs", "result.json"])


class Refused(RankCase):
    """Before the expensive part, in one line that names the file."""

    def write_cifar(self, count: int = 40) -> Path:
        import numpy as np

        folder = self.data / "cifar-10-batches-py"
        folder.mkdir(exist_ok=True)
        source = np.random.default_rng(0)
        for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
            images = source.integers(0, 255, (count, 3072), dtype=np.uint8)
            labels = [row % 10 for row in range(count)]
            for row, label in enumerate(labels):
                images[row, 300 * label : 300 * label + 300] = 255  # so that there is something to learn
            batch = {b"data": images, b"labels": labels}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        return folder

    def write_images(self, per_class: int = 12) -> Path:
        from PIL import Image

        folder, source = self.data / "imagenet", random.Random(0)
        for part in ("train", "val"):
            for label in range(6):
                target = folder / part / f"n{label:08d}"
                target.mkdir(parents=True, exist_ok=True)
                for number in range(per_class):
                    colour = tuple(min(255, 40 * label + source.randrange(30)) for _ in range(3))
                    Image.new("RGB", (80, 60), colour).save(target / f"{number}.JPEG")
        return folder

    def slow_decoding(self, where: str) -> str:
        """PYTHONPATH of processes in which every image takes 0.05 s longer, if the expression ``where`` is true."""
        folder = self.folder / "slow"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(
            "import os, time\n"
            "from PIL import Image\n"
            "resize = Image.Image.resize\n"
            "def late(*rest, **more):\n"
            f"    time.sleep(0.05 * ({where}))\n"
            "    return resize(*rest, **more)\n"
            "Image.Image.resize = late\n"
        )
        return f"{ROOT}:{folder}"

    def test_cifar_is_used_where_the_site_has_it(self) -> None:
        self.write_cifar()
        process, step = self.launch("scow-3", 2)
        self.assert_completed(process, step)
        outputs = step["outputs"]
        self.assertEqual((outputs["data_source"], outputs["n_train"], outputs["n_test"]), ("cifar10", 124, 40))

    def test_a_broken_batch_of_cifar(self) -> None:
        folder = self.write_cifar()
        path, whole = folder / "data_batch_3", (folder / "data_batch_3").read_bytes()
        cases: dict[str, tuple[bytes | None, str]] = {
            "truncated": (whole[:5000], "truncated"),
            "empty": (b"", "truncated"),
            "missing": (None, "no such file"),
            "another": (pickle.dumps({b"data": [1], b"labels": [1]}), "holds"),
            "harmful": (pickle.dumps(os.system), "asks for"),
        }
        for name, (content, word) in cases.items():
            with self.subTest(name):
                path.unlink(missing_ok=True)
                if content is not None:
                    path.write_bytes(content)
                self.assert_refused(*self.run_program("scow-3", *QUICK["scow-3"]), str(path), word)

    def test_a_folder_of_images_is_used_resident_and_streamed_with_the_same_numbers(self) -> None:
        self.write_images()
        slow = self.slow_decoding("True")
        curves, waiting = [], []
        for resident in ("8", "0"):
            arguments = [*QUICK["xscow-3"], "--max-images", "66", "--workers", "0", "--resident-gb", resident]
            process, step = self.run_program("xscow-3", *arguments, env={"PYTHONPATH": slow}, alone=True)
            self.assert_completed(process, step)
            self.assertEqual(step["outputs"]["data_source"], "imagenet")
            self.assertEqual(step["outputs"]["classes"], 6)
            self.assertEqual(step["outputs"]["settings"]["data_resident"], resident == "8")
            self.assertEqual(step["outputs"]["reload_difference"], 0)
            curves.append(step["outputs"]["train_loss_curve"])
            waiting.append(step["outputs"]["data_wait_share"])
            self.assertEqual(len(step["outputs"]["data_wait_share_curve"]), 2)
        self.assertEqual(curves[0], curves[1])
        self.assertGreater(waiting[1], waiting[0], "decoding between two steps is no wait, or what is in memory is one")

    def test_all_wait_for_the_process_that_waits_for_its_data(self) -> None:
        """Rank 1 alone decodes slowly; what rank 0 writes must not say that data were always there."""
        self.write_images()
        slow = self.slow_decoding("os.environ.get('RANK') == '1'")
        arguments = [*QUICK["xscow-3"], "--max-images", "66", "--workers", "0", "--resident-gb", "0"]
        process, step = self.launch("xscow-3", 2, *arguments, PYTHONPATH=slow)
        self.assert_completed(process, step)
        self.assertGreater(step["outputs"]["data_wait_share"], 0.1)  # rank 0 alone would say 0.01

    def test_broken_folders_of_images(self) -> None:
        folder = self.write_images()
        picture = folder / "train/n00000002/5.JPEG"
        whole = picture.read_bytes()
        empty = folder / "val/n00000003"

        def clear(path: Path) -> None:
            for file in path.iterdir():
                file.unlink()

        def remove(path: Path) -> None:
            clear(path)
            path.rmdir()

        steps: list[tuple[str, Any, tuple[str, ...]]] = [
            ("truncated", lambda: picture.write_bytes(whole[: len(whole) // 2]), (str(picture), "damaged")),
            ("no image", lambda: picture.write_bytes(b"<html>not found</html>"), (str(picture), "no image")),
            ("empty class", lambda: (picture.write_bytes(whole), clear(empty)), (str(empty), "no images")),
            ("missing class", lambda: remove(empty), ("n00000003", "different classes")),
        ]
        for name, spoil, words in steps:
            with self.subTest(name):
                spoil()
                for resident in ("8", "0"):
                    arguments = [*QUICK["xscow-3"], "--max-images", "0", "--workers", "0", "--resident-gb", resident]
                    self.assert_refused(*self.run_program("xscow-3", *arguments), *words)

    def test_a_broken_image_that_nobody_looked_at_ends_the_training_by_its_name(self) -> None:
        """Of a streamed set only 2,000 are decoded beforehand; of these 2,400 the sixth is none of them."""
        folder = self.write_images(per_class=400)
        picture = sorted((folder / "train/n00000000").iterdir())[5]
        picture.write_bytes(picture.read_bytes()[:300])
        arguments = ["--epochs", "2", "--width", "4", "--image-size", "32", "--batch-size", "600", "--resident-gb", "0"]
        for workers in ("0", "1"):
            with self.subTest(workers=workers):
                ended = self.run_program("xscow-3", *arguments, "--workers", workers)
                self.assert_refused(*ended, str(picture), "damaged", "only 2000 images are looked at before")

    def test_fewer_processes_than_the_job_asked_for(self) -> None:
        program = ROOT / "tutorials/scow-3/train.py"
        run = self.folder / "fewer"
        done = subprocess.run(
            [sys.executable, str(program), *QUICK["scow-3"]],
            env=self.environment(run, 2), capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        step = json.loads((run / "result.json").read_text(encoding="utf-8"))["steps"]["train"]
        self.assert_refused(Ended(done.returncode, done.stdout, done.stderr), step, "asked for 2 processes but 1 run")

    def test_a_batch_that_cannot_be_shared(self) -> None:
        process, step = self.launch("scow-3", 3, *QUICK["scow-3"], "--batch-size", "2")
        self.assertEqual(process.returncode, 2)
        self.assertIn("cannot be shared by 3 processes", process.stderr)
        self.assertEqual(step["status"], "failed")


if __name__ == "__main__":
    unittest.main()
