"""LoRA fine-tuning with LLaMA-Factory (xscow-6, scow-9, 10, 12, 13), run by the image's own Python.

apptainer exec --bind "$PWD:/mnt" --pwd /mnt/tests/in_image IMAGE python -m unittest -v test_identity
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from test_programs import ROOT, Ended, run_alone, run_here

PROGRAMS = ROOT / "tutorials/xscow-6"
GLOBAL_BATCH, RECORDS = 30, 90  # shared evenly by 1, 2, 3 and 5 processes; 3 steps are an epoch
TRAINING = [
    "--epochs", "3", "--batch-size", "1", "--lr", "1e-3", "--lora-rank", "8", "--cutoff-len", "128", "--val-size", "0",
    "--logging-steps", "1", "--keep-activations",
]  # fmt: skip


class IdentityCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.models = self.folder / "models"
        self.models.mkdir()

    def records(self, count: int = RECORDS) -> str:
        """A file of the first of our records."""
        path = self.folder / f"first-{count}.json"
        whole = json.loads((PROGRAMS / "identity-centre-assistant.json").read_text(encoding="utf-8"))
        path.write_text(json.dumps(whole[:count]), encoding="utf-8")
        return str(path)

    def environment(self, run: Path, ranks: int = 1, **more: str) -> dict[str, str]:
        mine = {key: value for key, value in os.environ.items() if not key.startswith("HARNESS_")}
        return mine | {
            "PYTHONPATH": f"{ROOT}:{PROGRAMS}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.folder / "huggingface"),
            "MPLCONFIGDIR": str(self.folder / "matplotlib"),
            "HARNESS_RUN_DIR": str(run),
            "HARNESS_RUN_ID": run.name,
            "HARNESS_GPUS_REQUESTED": "0",
            "HARNESS_VARIANT": "cpu",
            "HARNESS_PRESET": "smoke",
            "HARNESS_PROCESSES": str(ranks),
            **more,
        }

    def start(self, run: Path, ranks: int, *arguments: str, **more: str) -> subprocess.Popen[str]:
        shared = ["--accumulation", str(GLOBAL_BATCH // ranks), "--data", self.records()]
        command = ["-m", "harness.runtime.launch", str(PROGRAMS / "finetune.py"), *TRAINING, *shared, *arguments]
        return subprocess.Popen(
            [sys.executable, *command], env=self.environment(run, ranks, **more), start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(self, process: subprocess.Popen[str], run: Path) -> dict[str, Any]:
        """The outputs of a fine-tuning that ended well."""
        _, stderr = process.communicate(timeout=900)
        self.assertEqual(process.returncode, 0, stderr[-4000:])
        step = json.loads((run / "result.json").read_text(encoding="utf-8"))["steps"]["finetune"]
        self.assertEqual(step["status"], "completed")
        if not step["not_measured"]:
            self.assertEqual(step["metrics"]["step_rate"]["unit"], "steps/s")
        outputs: dict[str, Any] = step["outputs"]
        return outputs


class Equal(IdentityCase):
    def test_any_number_of_processes_gives_the_losses_of_one(self) -> None:
        """The same records in the same global batches, so the same losses but for the order in which numbers are added.

        Single precision adds to 6e-8; nine steps of Adam, which divides by gradients that may be tiny, let that grow.
        Seen: 1.5e-7 of the loss. A rank that averages its own share where it should add to the whole makes 1e-2.
        """
        losses = {}
        for ranks in (1, 2, 3, 5):
            run = self.folder / f"ranks-{ranks}"
            outputs = self.finish(self.start(run, ranks), run)
            losses[ranks] = outputs["train_loss"]
            self.assertEqual(outputs["steps"], 3 * RECORDS // GLOBAL_BATCH)
            self.assertEqual(outputs["world_size"], ranks)
            self.assertEqual([rank["rank"] for rank in outputs["ranks"]], list(range(ranks)))
            self.assertEqual(len({rank["pid"] for rank in outputs["ranks"]}), ranks)
            for rank in outputs["ranks"]:
                self.assertEqual(rank["losses"], outputs["train_loss"], "a rank saw another loss")
                self.assertGreater(rank["tokens_per_second"], 0)
        self.assertLess(losses[1][-1], losses[1][0] - 0.1, "nothing was learnt, so nothing is compared")
        for ranks in (2, 3, 5):
            for alone, together in zip(losses[1], losses[ranks], strict=True):
                self.assertAlmostEqual(alone, together, delta=1e-5 * alone, msg=f"{ranks} processes")


class Resumed(IdentityCase):
    def test_a_killed_training_goes_on_from_its_checkpoint_and_ends_with_the_same_losses(self) -> None:
        whole_run, run = self.folder / "whole", self.folder / "killed"
        whole = self.finish(self.start(whole_run, 2, "--save-steps", "2"), whole_run)
        process = self.start(run, 2, "--save-steps", "2")
        checkpoint = run / "adapter/checkpoint-4/trainer_state.json"
        while not checkpoint.exists():
            self.assertIsNone(process.poll(), "the training ended early")
            time.sleep(0.02)  # a file that another process writes
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        torn = run / "adapter/checkpoint-8"
        torn.mkdir(exist_ok=True)
        (torn / "trainer_state.json").write_text('{"global_step": 8')  # as a kill leaves it
        outputs = self.finish(self.start(run, 2, "--save-steps", "2"), run)
        self.assertIn(outputs["resumed_after_step"], (4, 6))
        self.assertEqual(whole["resumed_after_step"], 0)
        self.assertEqual(outputs["steps"], whole["steps"])
        for gone_on, uninterrupted in zip(outputs["train_loss"], whole["train_loss"], strict=True):
            self.assertAlmostEqual(gone_on, uninterrupted, delta=1e-6)

    def test_a_training_killed_after_its_last_checkpoint_has_nothing_left_to_measure_and_says_so(self) -> None:
        run = self.folder / "last"
        whole = self.finish(self.start(run, 1, "--save-steps", "1"), run)
        (run / "adapter/adapter_model.safetensors").unlink()  # it is written after the last checkpoint
        outputs = self.finish(self.start(run, 1, "--save-steps", "1"), run)
        step = json.loads((run / "result.json").read_text())["steps"]["finetune"]
        said = {"resumed_after": whole["steps"], "left": 0, "of": "steps"}
        self.assertEqual(step["not_measured"], {"train_throughput": said})
        self.assertEqual(step["metrics"], {})
        for name in ("steps", "steps_planned", "tokens_per_epoch", "train_loss"):
            self.assertEqual(outputs[name], whole[name], name)
        self.assertTrue((run / "adapter/adapter_model.safetensors").exists())

    def test_another_attempt_goes_on_from_what_the_first_left_and_changes_nothing_there(self) -> None:
        run = self.folder / "requeued"
        self.finish(self.start(run, 1, "--save-steps", "2"), run)
        (run / "adapter/adapter_model.safetensors").unlink()
        before = {path: path.stat().st_mtime_ns for path in (run / "adapter").rglob("*")}
        second = run / "attempt-1"
        again = {"HARNESS_RUN_ROOT": str(run), "HARNESS_ATTEMPT": "1"}
        outputs = self.finish(self.start(second, 1, "--save-steps", "2", **again), second)
        self.assertGreater(outputs["resumed_after_step"], 0)
        after = {path: path.stat().st_mtime_ns for path in (run / "adapter").rglob("*")}
        self.assertEqual({path.name for path in {**before, **after} if before.get(path) != after.get(path)}, set())

    def test_without_being_told_to_it_writes_checkpoints_goes_on_and_leaves_one_of_them(self) -> None:
        run = self.folder / "requeued-by-default"
        process = self.start(run, 1, "--epochs", "6")
        while not list((run / "adapter").glob("checkpoint-*/trainer_state.json")):
            self.assertIsNone(process.poll(), "the training ended, or was to end, without a checkpoint")
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        second = run / "attempt-1"
        again = {"HARNESS_RUN_ROOT": str(run), "HARNESS_ATTEMPT": "1"}
        outputs = self.finish(self.start(second, 1, "--epochs", "6", **again), second)
        self.assertIn(outputs["resumed_after_step"], (6, 12))
        self.assertEqual(outputs["steps"], 18)
        step = json.loads((second / "result.json").read_text())["steps"]["finetune"]
        self.assertGreater(step["phases"]["checkpoint"], 0)
        left = sorted(path.name for path in (second / "adapter").glob("checkpoint-*"))
        self.assertEqual(left, ["checkpoint-18"], "the last one is enough, and what a later attempt needs")
        self.assertTrue((second / "adapter/adapter_model.safetensors").exists())

        third = run / "attempt-2"
        later = {"HARNESS_RUN_ROOT": str(run), "HARNESS_ATTEMPT": "2"}
        outputs = self.finish(self.start(third, 1, "--epochs", "6", **later), third)
        self.assertEqual(outputs["resumed_after_step"], 18, "it was stopped while merging, and trained again")
        other = self.start(run / "attempt-3", 1, "--lr", "1e-4", HARNESS_RUN_ROOT=str(run), HARNESS_ATTEMPT="3")
        _, stderr = other.communicate(timeout=900)
        self.assertEqual(other.returncode, 2, stderr[-4000:])
        self.assertIn("was made with lr 0.001, this run has 0.0001", stderr)


class Precision(IdentityCase):
    def test_a_tiny_model_is_trained_in_single_precision_on_a_gpu_too(self) -> None:
        """Its losses and answers are judged as on a CPU; 16 bits are for the real model. No GPU is needed to see it."""
        with mock.patch.object(sys, "path", [str(PROGRAMS), *sys.path]):
            import board_train
            import finetune
            import torch
            from model import Model

            from harness.runtime import Team
        device = torch.device("cuda", 0)
        parsed = mock.MagicMock(epochs=1, lora_rank=8, val_size=0, model="M")
        team = Team(torch, 0, 1, device, ())
        said = {}
        with mock.patch.object(torch.cuda, "get_device_capability", return_value=(9, 0)):
            for source in ("tiny-random", "random", "site"):
                model = Model(source, self.folder / "model")
                plan = finetune.settings(parsed, model, "d", self.folder, team)
                with mock.patch("json.dumps", return_value=""):
                    page = board_train.page_values(parsed, model, "d", self.folder, device)
                said[source] = (plan["bf16"], plan["fp16"], page["train.compute_type"])
        single, half = (False, False, "fp32"), (True, False, "bf16")
        self.assertEqual(said, {"tiny-random": single, "random": half, "site": half})


class Alone(IdentityCase):
    def test_what_one_process_does_alone_is_left_to_rank_0(self) -> None:
        """A platform starts every step on every node."""
        run = self.folder / "second-node"
        for program in ("chat.py", "merge.py"):
            ended = run_here([str(PROGRAMS / program)], self.environment(run, RANK="1"))
            self.assertEqual(ended.returncode, 0, ended.stderr[-4000:])
            self.assertIn("rank 1: nothing to do", ended.stdout)
        self.assertFalse(run.exists(), "it wrote something")


class RandomWeights(IdentityCase):
    def test_a_model_for_measuring_is_random_never_zero_and_whole(self) -> None:
        """The full-size path with a small shape: 16 bits, as on a GPU; the same seed gives the same weights."""
        import torch
        from safetensors.torch import load_file

        from harness.runtime import check_model

        name = "Qwen2-7B-Instruct"
        with mock.patch.object(sys, "path", [str(PROGRAMS), *sys.path]):
            import model
        found = []
        with mock.patch.dict(model.SHAPES, {name: model.SHAPES["tiny"]}):
            for seed in (1, 1, 2):
                run = self.folder / f"random-{len(found)}"
                made = model.find_model(name, "random", "bench", run)
                model.make_random(made, name, ["Who are you?", "你是谁？"] * 20, seed)
                self.assertEqual(made.source, "random")
                check_model(made.folder, ["qwen2"], ["tokenizer.json"])
                found.append(load_file(made.folder / "model.safetensors"))
                self.assertEqual([path.name for path in run.iterdir()], ["model"], "something was left aside")
        for key, weights in found[0].items():
            self.assertEqual(weights.dtype, torch.bfloat16)
            if weights.ndim == 2:  # norms are one and biases zero in a new model
                self.assertGreater(float(weights.float().std()), 0.01, key)
                self.assertFalse(torch.equal(weights, found[2][key]), key)
            self.assertTrue(torch.equal(weights, found[1][key]), key)

    def test_all_programs_with_a_tokenizer_that_knows_few_of_the_models_tokens(self) -> None:
        """As --preset bench --set weights=random, in a thin model with the real vocabulary: most answers are empty."""
        patched = (
            "import runpy, sys, model; "
            "model.SHAPES['Qwen2-7B-Instruct'] = {**model.SHAPES['tiny'], 'vocab_size': 152064}; "
            "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        run, steps = self.folder / "whole", {}
        given = ["--weights", "random", "--data", self.records(40)]
        for step, program, more in (
            ("chat_before", "chat.py", ["--max-new-tokens", "16"]),
            ("finetune", "finetune.py", ["--epochs", "6", "--val-size", "0", "--logging-steps", "1"]),
            ("merge", "merge.py", []),
            ("chat_after", "chat.py", ["--max-new-tokens", "16"]),
        ):
            variables = self.environment(run, HARNESS_PRESET="bench", HARNESS_STEP=step)
            command = ["-c", patched, str(PROGRAMS / program), *given, *more]
            ended = run_alone(command, variables)
            self.assertEqual(ended.returncode, 0, ended.stderr[-4000:])
            steps = json.loads((run / "result.json").read_text(encoding="utf-8"))["steps"]
            self.assertEqual(steps[step]["outputs"]["model_source"], "random")
        losses = steps["finetune"]["outputs"]["train_loss"]
        self.assertGreaterEqual(len(losses), 5)
        self.assertTrue(all(0 < loss < 20 for loss in losses), losses)
        self.assertGreaterEqual(steps["chat_after"]["outputs"]["answer_tokens"], 1)
        self.assertGreater(steps["finetune"]["metrics"]["train_throughput"]["value"], 0)
        import numpy as np

        self.assertTrue(np.isfinite(np.load(run / "outputs/merge/logits_merged.npy")).all())

    def test_no_room_is_said_before_anything_is_written(self) -> None:
        with mock.patch.object(sys, "path", [str(PROGRAMS), *sys.path]):
            import model

            from harness.runtime import ProgramError
        huge = {**model.SHAPES["tiny"], "vocab_size": 10**12}
        with mock.patch.dict(model.SHAPES, {"huge": huge}), self.assertRaises(ProgramError) as caught:
            model.find_model("huge", "random", "bench", self.folder / "run")
        self.assertIn("GB free, the model and the merged one take", str(caught.exception))


class Refused(IdentityCase):
    """Before anything is trained: exit status 2 and one line that names the file."""

    def refusal(self, *arguments: str, preset: str = "smoke") -> str:
        run = self.folder / "refused"
        variables = self.environment(run, HARNESS_MODELS_DIR=str(self.models), HARNESS_PRESET=preset)
        for program in ("chat.py", "finetune.py"):
            given = [] if program == "chat.py" else TRAINING
            ended: Ended = run_here([str(PROGRAMS / program), *given, *arguments], variables)
            self.assertEqual(ended.returncode, 2, ended.stderr[-4000:])
            errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
            self.assertEqual(len(errors), 1, ended.stderr)
            self.assertFalse((run / "model").exists(), "a model was made first")
            self.assertFalse((run / "adapter").exists(), "a training was begun")
        return errors[0]

    def write_model(self, model_type: str, cut: int = 0, **config: int) -> Path:
        folder = self.models / "Qwen2-7B-Instruct"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": model_type, **config}))
        (folder / "tokenizer.json").write_text("{}")
        header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
        whole = len(header).to_bytes(8, "little") + header + bytes(16)
        (folder / "model.safetensors").write_bytes(whole[: len(whole) - cut])
        return folder

    def test_models(self) -> None:
        folder = self.write_model("llama")
        self.assertIn(f"{folder}: is a 'llama' model, this program needs qwen2", self.refusal())
        folder = self.write_model("qwen2", hidden_size=8192, num_hidden_layers=80)
        self.assertIn(f"{folder}: its hidden_size is 8192", self.refusal())
        folder = self.write_model("qwen2", cut=7)
        self.assertIn(f"{folder}/model.safetensors: truncated", self.refusal())
        (folder / "model.safetensors").unlink()
        self.assertIn("the model is incomplete", self.refusal())
        self.assertIn("the model Qwen2-1B is not below the site's", self.refusal("--model", "Qwen2-1B", preset="bench"))
        self.assertIn("shape of 'Qwen2-1B' is not known", self.refusal("--model", "Qwen2-1B", "--weights", "random"))

    def test_data(self) -> None:
        path = self.folder / "records.json"
        for content, words in (
            (b"[]", "0 records"),
            ("[你好]".encode("gb18030"), "not UTF-8"),
            (b'[{"instruction": "Who', "not JSON"),
        ):
            path.write_bytes(content)
            message = self.refusal("--data", str(path))
            self.assertIn(str(path), message)
            self.assertIn(words, message)
        self.assertIn("no dataset_info.json of the site has that name", self.refusal("--data", "unheard-of"))


if __name__ == "__main__":
    unittest.main()
