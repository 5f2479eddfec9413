"""The tutorial programs, run by the image's own Python. unittest only: the image holds no pytest.

    apptainer exec --bind "$PWD:/mnt" --pwd /mnt/tests/in_image IMAGE python -m unittest -v test_programs

The programs and the runtime library are those of the checkout, found from this file's place; outside an image any
Python that has the stack's packages will do.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import runpy
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # before the runtime library an image may bring along
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
QUICK = {
    "mnist": ["--epochs", "2", "--max-images", "256"],
    "xscow-2": ["--epochs", "2", "--max-images", "256", "--digits-passes", "1"],
    "xscow-1": ["--epochs", "15"],
}


class Ended(NamedTuple):
    """What a finished program left behind."""

    returncode: int
    stdout: str
    stderr: str


def run_alone(command: list[str], variables: dict[str, str]) -> Ended:
    process = subprocess.run(
        [sys.executable, *command], env=variables, capture_output=True, text=True, timeout=300, check=False
    )
    return Ended(process.returncode, process.stdout, process.stderr)


def run_here(command: list[str], variables: dict[str, str]) -> Ended:
    """As ``python PROGRAM ...``, without the seconds that starting Python and importing torch take."""
    stdout, stderr, status = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.dict(os.environ, variables, clear=True),
        mock.patch.object(sys, "argv", command),
        mock.patch.object(sys, "path", [str(Path(command[0]).parent), *sys.path]),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    for name, module in list(sys.modules.items()):  # two tutorials may each have a resnet.py
        if str(getattr(module, "__file__", None)).startswith(str(ROOT / "tutorials")):
            del sys.modules[name]
    return Ended(status, stdout.getvalue(), stderr.getvalue())


class ProgramCase(unittest.TestCase):
    """Runs programs as a job does, each in a run folder of its own."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.data = self.folder / "data"
        self.data.mkdir()
        self.runs = 0

    def run_program(
        self, tutorial: str, *arguments: str, env: dict[str, str] | None = None, alone: bool = False
    ) -> tuple[Ended, Any]:
        """How the program ended and the step of its result.json (None without one).

        Runs in this process, which has imported torch already, unless it is to run ``alone`` as a job would start it.
        """
        self.runs += 1
        run_dir = self.folder / f"run-{self.runs}"
        variables = {key: value for key, value in os.environ.items() if not key.startswith("HARNESS_")}
        variables |= {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tutorials/xscow-2'}",  # mnist reads its data with the other's module
            "PYTHONDONTWRITEBYTECODE": "1",
            "HARNESS_RUN_DIR": str(run_dir),
            "HARNESS_VARIANT": "cpu",
            "HARNESS_PRESET": "smoke",
            "HARNESS_GPUS_REQUESTED": "0",
            "HARNESS_DATA_DIR": str(self.data),
            **(env or {}),
        }
        program = ROOT / "tutorials" / tutorial / "train.py"
        command = [str(program), *(arguments or QUICK[tutorial])]
        ended = run_alone(command, variables) if alone else run_here(command, variables)
        result = run_dir / "result.json"
        step = json.loads(result.read_text(encoding="utf-8"))["steps"]["train"] if result.exists() else None
        self.outputs = run_dir / "outputs" / "train"
        return ended, step

    def assert_completed(self, process: Ended, step: Any) -> None:
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertEqual(step["status"], "completed")
        self.assertTrue((self.outputs / "learning_curve.png").read_bytes().startswith(PNG_MAGIC))
        if not step["not_measured"]:
            self.assertGreaterEqual(len(step["metrics"]["train_throughput"]["samples"]), 1)

    def assert_refused(self, process: Ended, step: Any, *words: str) -> None:
        """Exit status 2 and one line that says every word, before any training."""
        self.assertEqual(process.returncode, 2, process.stderr)
        errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
        self.assertEqual(len(errors), 1, process.stderr)
        self.assertNotIn("Traceback", process.stderr)
        self.assertNotIn("epoch", process.stdout)
        for word in words:
            self.assertIn(word, errors[0])
        self.assertEqual(step["status"], "failed")
        self.assertEqual(step["metrics"], {})


class DigitPrograms(ProgramCase):
    """mnist and xscow-2."""

    def write_mnist(self, train: int = 192, test: int = 64) -> None:
        """Images whose class shows: a bright bar whose place is the label, on noise."""
        folder = self.data / "mnist"
        folder.mkdir()
        source = random.Random(0)
        for name, count in (("train", train), ("t10k", test)):
            labels = bytes(source.randrange(10) for _ in range(count))
            images = bytearray()
            for label in labels:
                image = bytearray(source.randrange(40) for _ in range(28 * 28))
                image[28 * (2 * label + 3) : 28 * (2 * label + 5)] = bytes([255]) * 56
                images += image
            header = struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28)
            (folder / f"{name}-images-idx3-ubyte").write_bytes(header + images)
            (folder / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, count) + labels)

    def test_the_digits_are_used_where_there_is_no_mnist(self) -> None:
        for tutorial in ("mnist", "xscow-2"):
            with self.subTest(tutorial):
                process, step = self.run_program(tutorial, alone=True)
                self.assert_completed(process, step)
                self.assertEqual(step["outputs"]["data_source"], "digits")
                self.assertEqual(step["outputs"]["n_train"], 256)
                self.assertEqual(step["device"]["kind"], "cpu")

    def test_mnist_is_used_where_the_site_has_it(self) -> None:
        self.write_mnist()
        for tutorial in ("mnist", "xscow-2"):
            with self.subTest(tutorial):
                process, step = self.run_program(tutorial, "--epochs", "4", "--batch-size", "16")
                self.assert_completed(process, step)
                self.assertEqual(step["outputs"]["data_source"], "mnist")
                self.assertEqual((step["outputs"]["n_train"], step["outputs"]["n_test"]), (192, 64))
                self.assertGreater(step["outputs"]["test_accuracy"], 0.8, "the labels belong to other images")

    def test_a_truncated_file_is_refused(self) -> None:
        self.write_mnist()
        path = self.data / "mnist" / "t10k-images-idx3-ubyte"
        path.write_bytes(path.read_bytes()[:1000])
        for tutorial in ("mnist", "xscow-2"):
            with self.subTest(tutorial):
                self.assert_refused(*self.run_program(tutorial), str(path), "truncated")

    def test_saved_weights_are_those_of_the_network(self) -> None:
        import torch

        process, step = self.run_program("mnist")
        self.assert_completed(process, step)
        weights = torch.load(self.outputs / "mnist_cnn.pt", weights_only=True)
        self.assertEqual(sum(tensor.numel() for tensor in weights.values()), 1_199_882)


class PricePrograms(ProgramCase):
    """xscow-1."""

    def write_ames(self, rows: int = 200, **change: object) -> Path:
        """A small table of the right form; ``change`` replaces cells of the last row."""
        (self.data / "ames").mkdir(exist_ok=True)
        source = random.Random(0)
        path = self.data / "ames" / "train.csv"
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, ["Id", "Street", "LotArea", "LotFrontage", "Quality", "SalePrice"])
            writer.writeheader()
            for number in range(rows):
                area, quality = source.uniform(3000, 20000), source.randint(1, 10)
                price = round(20000 + 5 * area + 15000 * quality + source.gauss(0, 5000))
                row = {"Id": number + 1, "Street": "Pave", "LotArea": area, "Quality": quality, "SalePrice": price}
                row["LotFrontage"] = "NA" if number % 5 == 0 else area / 100
                writer.writerow({**row, **(change if number == rows - 1 else {})})
        return path

    def test_the_diabetes_set_is_used_where_there_are_no_prices(self) -> None:
        process, step = self.run_program("xscow-1", alone=True)
        self.assert_completed(process, step)
        self.assertEqual(step["outputs"]["data_source"], "diabetes")
        self.assertLess(step["outputs"]["rmse"], step["outputs"]["baseline_rmse"])

    def test_the_prices_are_used_where_the_site_has_them(self) -> None:
        self.write_ames()
        process, step = self.run_program("xscow-1", "--epochs", "100")
        self.assert_completed(process, step)
        outputs = step["outputs"]
        self.assertEqual((outputs["data_source"], outputs["score"]), ("ames", "rmse_log"))
        self.assertEqual((outputs["n_train"], outputs["n_test"], outputs["n_features"]), (160, 40, 3))
        self.assertGreater(outputs["improvement"], 0.3)

    def test_a_broken_table_is_refused(self) -> None:
        cases: list[tuple[str, bytes | None, tuple[str, ...]]] = [
            ("missing", None, ("no such file",)),
            ("empty", b"", ("not a readable CSV",)),
            ("not text", b"\xff\xfe\x00\x80", ("not a readable CSV",)),
            ("no target", b"Id,LotArea\n1,2\n", ("SalePrice", "no column")),
            ("text target", b"Id,LotArea,SalePrice\n1,2,many\n", ("SalePrice", "text")),
            ("too short", b"Id,LotArea,SalePrice\n1,2,3\n", ("1 rows",)),
            ("header only", b"Id,LotArea,SalePrice\n", ("error",)),
        ]
        path = self.write_ames()
        for name, content, words in cases:
            with self.subTest(name):
                if content is None:
                    path.unlink()
                else:
                    path.write_bytes(content)
                self.assert_refused(*self.run_program("xscow-1"), str(path), *words)

    def test_a_table_cut_off_in_its_last_line_is_refused(self) -> None:
        for value in ("", "-1", "inf"):
            with self.subTest(value):
                path = self.write_ames(SalePrice=value)
                self.assert_refused(*self.run_program("xscow-1"), str(path), "line 201", "SalePrice")


class EveryProgram(ProgramCase):
    def test_the_same_seed_gives_the_same_numbers(self) -> None:
        for tutorial in QUICK:
            with self.subTest(tutorial):
                steps = [self.run_program(tutorial)[1]["outputs"] for _ in range(2)]
                for outputs in steps:
                    outputs.pop("train_throughput_steady")
                self.assertEqual(steps[0], steps[1])
                other = self.run_program(tutorial, *QUICK[tutorial], "--seed", "7")[1]["outputs"]
                other.pop("train_throughput_steady")
                self.assertNotEqual(steps[0], other)

    def test_a_gpu_that_is_not_there_is_no_reason_to_use_the_cpu(self) -> None:
        for tutorial in QUICK:
            with self.subTest(tutorial):
                env = {"HARNESS_GPUS_REQUESTED": "1", "CUDA_VISIBLE_DEVICES": ""}
                self.assert_refused(*self.run_program(tutorial, env=env, alone=True), "asked for 1 GPU", "sees 0")

    def test_a_data_root_that_is_not_mounted_is_refused(self) -> None:
        env = {"HARNESS_DATA_DIR": str(self.folder / "nowhere")}
        for tutorial in QUICK:
            with self.subTest(tutorial):
                self.assert_refused(*self.run_program(tutorial, env=env), "HARNESS_DATA_DIR", "nowhere")

    def test_wrong_arguments_are_one_line_and_leave_no_result(self) -> None:
        for wrong in (["--epochs", "1"], ["--epochs", "many"], ["--colour", "red"]):
            with self.subTest(wrong):
                process, step = self.run_program("mnist", *wrong)
                self.assertEqual(process.returncode, 2)
                self.assertIn(wrong[0], process.stderr.splitlines()[-1])
                self.assertIsNone(step)


if __name__ == "__main__":
    unittest.main()
