"""Teach a chat model a new identity: supervised fine-tuning with LoRA, by LLaMA-Factory, on one process per GPU.

LoRA leaves the model's weights as they are and learns a small product of two matrices beside each: the adapter.
"""

# First: this import marks the moment the program began.
from harness.runtime import (
    ProgramArguments,
    ProgramError,
    StepRun,
    Team,
    choose_device,
    join_team,
    run_program,
)  # fmt: skip

# isort: split
import argparse
import importlib.util
import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from dataset import register
from factory import ADAPTER, DATA, common_parameters, precision, prepare, write_settings
from llamafactory.extras.env import VERSION
from llamafactory.hparams import get_train_args
from llamafactory.train.callbacks import LogCallback
from llamafactory.train.sft import run_sft
from model import Model
from watch import EpochWatch, begin_or_go_on, keep_the_last, of_all_ranks

# What may change between a training and its continuation: how long it lasts, and what is written beside it.
MAY_DIFFER = ("epochs", "logging_steps", "save_steps", "report_to")


def settings(args: argparse.Namespace, model: Model, data_name: str, run_folder: Path, team: Team) -> dict[str, Any]:
    """What LLaMA-Factory is to do, by its own names."""
    dtype = precision(team.device, model.source)
    return {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": str(model.folder),
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
        "save_total_limit": 2,  # the one before the last, should a kill cut the last one short
        "plot_loss": True,
        "disable_tqdm": True,
        "report_to": args.report_to,
        "output_dir": str(run_folder / ADAPTER),
    }


def train(run: StepRun, args: argparse.Namespace, team: Team) -> None:
    run.output("world_size", team.size)
    if args.report_to != "none" and importlib.util.find_spec(args.report_to) is None:
        raise ProgramError(f"--report-to {args.report_to}: this image has no package of that name; valid here: none")
    with run.phase("load"):
        model, identity = prepare(run, args, team)
        adapter = run.folder / ADAPTER
        plan = settings(args, model, identity.name, run.folder, team)
        if team.is_first:
            register(identity, run.folder / DATA)
            made_with = {name: value for name, value in vars(args).items() if name not in MAY_DIFFER}
            sources = {"model_source": model.source, "data_source": identity.name, "processes": team.size}
            begin_or_go_on(adapter, {**made_with, **sources})
            write_settings(run.output_file("train.yaml"), plan)
        team.wait()
    # Accelerate asks where rank 0 is although the ranks have met already; it does not use the answer.
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    watch = EpochWatch(run, team.device)
    model_args, data_args, training_args, finetuning_args, generating_args = get_train_args(plan)
    if team.device.type == "cpu":
        # Accelerate numbers the CPUs of several processes (cpu:1); torch cannot load a checkpoint onto such a device.
        vars(training_args)["_setup_devices"] = team.device
    run_sft(model_args, data_args, training_args, finetuning_args, generating_args, [LogCallback(), watch])
    measured = bool(watch.meter.measured)
    if not watch.losses or not (measured or watch.resumed_after):
        raise ProgramError("nothing was trained and measured: at least two epochs, and logging_steps within them")
    done, left = watch.resumed_after, watch.steps - watch.resumed_after
    run.throughput("train_throughput", watch.meter, unit="tokens/s", resumed_after=done, left=left, of="steps")
    if measured:
        run.metric("step_rate", watch.steps_per_second(), "steps/s")
    speed = watch.meter.median if measured else None
    run.output("ranks", of_all_ranks(team, {"tokens_per_second": speed, "losses": watch.losses}))
    run.output("n_records", len(identity.records))
    run.output("tokens_per_epoch", watch.tokens)
    run.output("steps", watch.steps)
    together = args.batch_size * args.accumulation * team.size  # records per step
    run.output("steps_planned", args.epochs * math.ceil(watch.records / together))
    run.output("resumed_after_step", watch.resumed_after)
    run.output("train_loss", watch.losses)
    run.output("eval_loss", watch.eval_loss)
    if team.is_first:
        keep_the_last(adapter)
        shutil.copy(adapter / "adapter_config.json", run.output_file("adapter_config.json"))
        shutil.copy(adapter / "training_loss.png", run.output_file("training_loss.png"))
        print(f"loss {watch.losses[0]:.3f} -> {watch.losses[-1]:.3f} in {watch.steps} steps of {team.size} process(es)")
        print(f"adapter in {adapter}")


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
    arguments.parameter("save_steps", 6, "steps between checkpoints; 0: none", minimum=0)
    arguments.parameter("report_to", "none", "tensorboard: also write its logs")
    args = arguments.parse_args()
    with StepRun.from_environment("finetune", tutorial="xscow-6", parameters=vars(args), keeps=ADAPTER) as run:
        # The tiny model's matrices are too small to share: a second thread would only be waited for.
        device, facts = choose_device(torch, run.gpus_requested, max_threads=1 if run.preset == "smoke" else None)
        run.use_device(facts)
        run.versions(torch=torch.__version__, llamafactory=VERSION)
        with join_team(torch, device) as team:
            train(run, args, team)


if __name__ == "__main__":
    run_program(main)
