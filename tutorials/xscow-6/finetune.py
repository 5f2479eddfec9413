"""Teach a chat model a new identity: supervised fine-tuning with LoRA, by LLaMA-Factory, on one process per GPU.

LoRA leaves the model's weights as they are and learns a small product of two matrices beside each: the adapter.
"""

# First: this import marks the moment the program began.
from harness.runtime import (
    ProgramArguments,
    ProgramError,
    StepRun,
    Team,
    Throughput,
    choose_device,
    join_team,
    run_program,
)  # fmt: skip

# isort: split
import argparse
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from dataset import register
from factory import ADAPTER, DATA, common_parameters, precision, prepare, write_settings
from llamafactory.extras.env import VERSION
from llamafactory.hparams import get_train_args
from llamafactory.train.callbacks import LogCallback
from llamafactory.train.sft import run_sft
from transformers import TrainerCallback


class EpochWatch(TrainerCallback):
    """Times each epoch, in tokens of its records (padding does not count), and keeps what the trainer logs."""

    def __init__(self, device: torch.device) -> None:
        self.meter = Throughput(
            warm_up=1, synchronize=torch.cuda.synchronize if device.type == "cuda" else lambda: None
        )
        self.tokens = 0
        self.steps = 0
        self.losses: list[float] = []
        self.eval_loss: float | None = None
        self._window = ExitStack()

    def on_epoch_begin(self, _args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        self.tokens = sum(len(record["input_ids"]) for record in kwargs["train_dataloader"].dataset)
        self._window.enter_context(self.meter.window(units=self.tokens))

    def on_epoch_end(self, _args: Any, state: Any, _control: Any, **_kwargs: Any) -> None:
        self._window.close()
        self.steps = state.global_step

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, float], **_kwargs: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])
        self.eval_loss = logs.get("eval_loss", self.eval_loss)


def settings(args: argparse.Namespace, model: Path, data_name: str, run_folder: Path, team: Team) -> dict[str, Any]:
    """What LLaMA-Factory is to do, by its own names."""
    dtype = precision(team.device)
    return {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": str(model),
        "template": args.template,
        "dataset": data_name,
        "dataset_dir": str(run_folder / DATA),
        "cutoff_len": args.cutoff_len,
        "val_size": args.val_size,
        "do_eval": args.val_size > 0,
        "per_device_eval_batch_size": 1,
        "preprocessing_num_workers": 1,
        "finetuning_type": "lora",
        "lora_target": args.lora_target,
        "lora_rank": args.lora_rank,
        "lora_alpha": 2 * args.lora_rank,
        "per_device_train_batch_size": args.batch_size,
        "gradient_accumulation_steps": args.accumulation,
        "num_train_epochs": float(args.epochs),
        "learning_rate": args.lr,
        "lr_scheduler_type": args.schedule,
        "warmup_ratio": args.warmup,
        "seed": args.seed,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "disable_gradient_checkpointing": args.keep_activations,
        "use_cpu": team.device.type == "cpu",
        **({"ddp_backend": "nccl" if team.device.type == "cuda" else "gloo"} if team.size > 1 else {}),
        "logging_steps": args.logging_steps,
        "save_strategy": "steps" if args.save_steps else "no",
        "save_steps": args.save_steps or 500,
        "plot_loss": True,
        "disable_tqdm": True,
        "report_to": args.report_to,
        "output_dir": str(run_folder / ADAPTER),
    }


def train(run: StepRun, args: argparse.Namespace, team: Team) -> None:
    run.output("world_size", team.size)
    run.output("ranks", list(team.members))
    with run.phase("load"):
        model, identity = prepare(run, args, team)
        adapter = run.folder / ADAPTER
        plan = settings(args, model.folder, identity.name, run.folder, team)
        if team.is_first:
            register(identity, run.folder / DATA)
            # A finished adapter would be "resumed" at its end; one that was interrupted goes on from its checkpoint.
            if (adapter / "adapter_model.safetensors").exists():
                shutil.rmtree(adapter)
            write_settings(run.output_file("train.yaml"), plan)
        team.wait()
    # Accelerate asks where rank 0 is although the ranks have met already; it does not use the answer.
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    watch = EpochWatch(team.device)
    model_args, data_args, training_args, finetuning_args, generating_args = get_train_args(plan)
    run_sft(model_args, data_args, training_args, finetuning_args, generating_args, [LogCallback(), watch])
    if not watch.losses or len(watch.meter.measured) < 1:
        raise ProgramError("nothing was trained and measured: at least two epochs, and logging_steps within them")
    run.throughput("train_throughput", watch.meter, unit="tokens/s")
    run.output("n_records", len(identity.records))
    run.output("tokens_per_epoch", watch.tokens)
    run.output("steps", watch.steps)
    run.output("train_loss", watch.losses)
    run.output("eval_loss", watch.eval_loss)
    if team.is_first:
        shutil.copy(adapter / "adapter_config.json", run.output_file("adapter_config.json"))
        shutil.copy(adapter / "training_loss.png", run.output_file("training_loss.png"))
        print(f"loss {watch.losses[0]:.3f} -> {watch.losses[-1]:.3f} in {watch.steps} steps of {team.size} process(es)")
        print(f"{watch.meter.median:.0f} tokens/s; adapter in {adapter}")


def main() -> None:
    arguments = ProgramArguments(__doc__)
    common_parameters(arguments)
    arguments.parameter("epochs", 20, "the first is warm-up, not measured", minimum=2)
    arguments.parameter("batch_size", 4, "records per process and forward pass", minimum=1)
    arguments.parameter("accumulation", 8, "forward passes per step", minimum=1)
    arguments.parameter("lr", 1e-4, "learning rate", minimum=0)
    arguments.parameter("schedule", "cosine", "of the learning rate")
    arguments.parameter("warmup", 0.1, "share of the steps in which the learning rate rises", minimum=0)
    arguments.parameter("lora_rank", 8, "width of the adapter", minimum=1)
    arguments.parameter("lora_target", "all", "linear layers that get an adapter")
    arguments.parameter("keep_activations", False, "do not compute them twice: faster, more memory")
    arguments.parameter("cutoff_len", 1024, "longest record, in tokens", minimum=16)
    arguments.parameter("val_size", 0.1, "share of the records kept for testing", minimum=0)
    arguments.parameter("logging_steps", 5, "steps per point of the loss curve", minimum=1)
    arguments.parameter("save_steps", 0, "steps between checkpoints; 0: none", minimum=0)
    arguments.parameter("report_to", "none", "tensorboard: also write its logs")
    args = arguments.parse_args()
    with StepRun.from_environment("finetune", tutorial="xscow-6", parameters=vars(args)) as run:
        # The tiny model's matrices are too small to share: a second thread would only be waited for.
        device, facts = choose_device(torch, run.gpus_requested, max_threads=1 if run.preset == "smoke" else None)
        run.use_device(facts)
        run.versions(torch=torch.__version__, llamafactory=VERSION)
        with join_team(torch, device) as team:
            train(run, args, team)


if __name__ == "__main__":
    run_program(main)
