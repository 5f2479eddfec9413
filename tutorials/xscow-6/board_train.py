"""The same fine-tuning through LLaMA-Factory's web board: its own pages and buttons, pressed by a program.

The board is started as `harness open board` starts it. A client of Gradio, of which its pages are made, fills in what a
person would fill in (model, data set, the numbers) and presses "Start".
"""

# First: this import marks the moment the program began.
from harness.runtime import ProgramArguments, ProgramError, StepRun, choose_device, run_program
from harness.runtime.server import serving

# isort: split
import argparse
import json
import secrets
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from dataset import register
from factory import ADAPTER, DATA, common_parameters, precision, prepare
from gradio_client import Client
from llamafactory.extras.env import VERSION
from model import Model

BOARD, OUTPUT = "board", "through-the-board"
START_BUTTON = "run_train"  # the function behind it
COMPUTE_TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class Board:
    """The board as its pages see it: inputs by LLaMA-Factory's names, and the button that starts a training."""

    def __init__(self, address: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        self.client = Client(address, headers=headers, verbose=False, analytics_enabled=False)
        config = self.client.config
        button = next((d for d in config["dependencies"] if d["api_name"] == START_BUTTON), None)
        if button is None:
            raise ProgramError(f"this LLaMA-Factory ({VERSION}) has no button for {START_BUTTON}")
        components = {component["id"]: component["props"] for component in config["components"]}
        self.button = button["id"]
        self.inputs = [components[number]["elem_id"] for number in button["inputs"]]
        self.values = {components[n]["elem_id"]: components[n].get("value") for n in button["inputs"]}

    def fill_in(self, values: dict[str, Any]) -> None:
        """Set inputs, such as ``train.dataset``; those left alone keep what the page shows."""
        unknown = sorted(set(values) - set(self.values))
        if unknown:
            raise ProgramError(f"this LLaMA-Factory ({VERSION}) has no input '{unknown[0]}' on its page")
        self.values.update(values)

    def train(self) -> list[Any]:
        """Press the button and wait; returns what the page shows at the end."""
        job = self.client.submit(*(self.values[name] for name in self.inputs), fn_index=self.button)
        job.result()
        return list(job.outputs()[-1])


def page_values(
    args: argparse.Namespace, model: Model, data: str, folder: Path, device: torch.device
) -> dict[str, Any]:
    """What a person would enter, by the board's names; the rest as JSON in the field for it."""
    more = {
        "seed": args.seed,
        "warmup_ratio": args.warmup,
        "optim": "adamw_torch",
        "preprocessing_num_workers": 1,
        "disable_gradient_checkpointing": args.keep_activations,
        "disable_tqdm": True,
    }
    return {
        "top.lang": "en",
        "top.model_name": args.model,
        "top.model_path": str(model.folder),
        "top.finetuning_type": "lora",
        "top.template": args.template,
        "train.training_stage": "Supervised Fine-Tuning",
        "train.dataset_dir": str(folder / DATA),
        "train.dataset": [data],
        "train.learning_rate": str(args.lr),
        "train.num_train_epochs": str(float(args.epochs)),
        "train.max_samples": "100000",
        "train.compute_type": COMPUTE_TYPES[precision(device, model.source)],
        "train.cutoff_len": args.cutoff_len,
        "train.batch_size": args.batch_size,
        "train.gradient_accumulation_steps": args.accumulation,
        "train.val_size": args.val_size,
        "train.lr_scheduler_type": args.schedule,
        "train.logging_steps": args.logging_steps,
        "train.save_steps": 5000,
        "train.lora_rank": args.lora_rank,
        "train.lora_alpha": 2 * args.lora_rank,
        "train.output_dir": OUTPUT,
        "train.extra_args": json.dumps(more),
    }


def train(run: StepRun, args: argparse.Namespace, device: torch.device) -> None:
    with run.phase("load"):
        model, identity = prepare(run, args)
        register(identity, run.folder / DATA)
        folder = run.folder / BOARD
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt before this one
        folder.mkdir()
    token = secrets.token_urlsafe(24)

    def command(port: int) -> list[str]:
        program = str(Path(__file__).with_name("board.py"))
        return [sys.executable, program, f"--port={port}", f"--folder={folder}"]

    variables = {"BOARD_TOKEN": token, "USE_CPU": "1"} if device.type == "cpu" else {"BOARD_TOKEN": token}
    with serving(command, run.folder / "board.log", variables=variables) as address, run.phase("train"):
        board = Board(address, token)
        board.fill_in(page_values(args, model, identity.name, run.folder, device))
        shown = board.train()
    saved = folder / "saves" / args.model / "lora" / OUTPUT
    if not (saved / "adapter_model.safetensors").is_file():
        raise ProgramError(f"the board trained nothing ({run.folder}/board.log); its page says: {str(shown[0])[-500:]}")
    results = json.loads((saved / "all_results.json").read_text(encoding="utf-8"))
    log = [json.loads(line) for line in (saved / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()]
    shutil.copy(saved / "training_loss.png", run.output_file("training_loss.png"))
    shutil.copy(saved / "training_args.yaml", run.output_file("train.yaml"))
    shutil.rmtree(run.folder / ADAPTER, ignore_errors=True)
    saved.replace(run.folder / ADAPTER)
    run.output("n_records", len(identity.records))
    run.output("page_says", str(shown[0])[-200:])
    run.output("train_loss", [entry["loss"] for entry in log if "loss" in entry])
    rate = results["train_samples_per_second"]
    run.metric("train_throughput", rate, "records/s", [rate])


def main() -> None:
    arguments = ProgramArguments(__doc__)
    common_parameters(arguments)
    arguments.parameter("epochs", 20, "passes over the data", minimum=1)
    arguments.parameter("batch_size", 1, "records of one pass forward and backward", minimum=1)
    arguments.parameter("accumulation", 8, "such passes before the weights move", minimum=1)
    arguments.parameter("lr", 1e-4, "learning rate", minimum=0)
    arguments.parameter("schedule", "cosine", "how it falls")
    arguments.parameter("warmup", 0.1, "share of the steps over which it rises")
    arguments.parameter("lora_rank", 8, "width of the adapter", minimum=1)
    arguments.parameter("cutoff_len", 1024, "longest record, tokens", minimum=16)
    arguments.parameter("val_size", 0.0, "share of the records kept for testing")
    arguments.parameter("keep_activations", False, "do not compute them twice to save memory")
    arguments.parameter("logging_steps", 5, "steps between two values of the loss", minimum=1)
    args = arguments.parse_args()
    with StepRun.from_environment("board_train", tutorial="scow-11", parameters=vars(args)) as run:
        device, facts = choose_device(torch, run.gpus_requested)
        run.use_device(facts)
        run.versions(torch=torch.__version__, llamafactory=VERSION)
        train(run, args, device)


if __name__ == "__main__":
    run_program(main)
