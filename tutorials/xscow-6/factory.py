"""What all steps say to LLaMA-Factory, and how: settings written as YAML, so that they can be read and used by hand.

llamafactory-cli train  RUN_FOLDER/outputs/finetune/train.yaml
llamafactory-cli export RUN_FOLDER/outputs/merge/merge.yaml
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import yaml
from dataset import Identity, load_identity
from model import Model, find_model, make_random

from harness.runtime import ProgramArguments, StepRun, Team

ADAPTER, MERGED, DATA = "adapter", "merged", "data"  # folders of the run


def common_parameters(arguments: ProgramArguments) -> None:
    """The parameters that every step must be given alike."""
    arguments.parameter("model", "Qwen2-7B-Instruct", "folder below the site's models root")
    arguments.parameter("weights", "real", "real, or random: the full-size architecture, for measuring without a model")
    arguments.parameter("data", "", "alpaca file, or name the site registered; empty: the site's, else ours")
    arguments.parameter("template", "qwen", "how the model wants a conversation to be written")
    arguments.parameter("seed", 42, "of random weights, the split and the order of the records", minimum=0)


def prepare(run: StepRun, args: Any, team: Team | None = None) -> tuple[Model, Identity]:
    """The checked data set and the model, which rank 0 makes if it is to be random; both recorded."""
    identity = load_identity(args.data)
    model = find_model(args.model, args.weights, run.preset, run.folder)
    if team is None or team.is_first:
        make_random(model, args.model, identity.texts(), args.seed)
    if team is not None:
        team.wait()
    run.output("data_source", identity.name)
    run.output("data_given", args.data)
    run.output("model_source", model.source)
    return model, identity


def is_for_another() -> bool:
    """Whether this is one of several nodes on which a platform starts every step, and not the first.

    What one process does alone, rank 0 does; two that merge into one folder would race. Says so.
    """
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        print(f"rank {rank}: nothing to do, rank 0 does it")
    return rank != "0"


def precision(device: torch.device, source: str = "") -> torch.dtype:
    """bfloat16 from compute capability 8.0 on, float16 on older GPUs; single precision on CPUs.

    Where two ways are compared a tiny model is computed in single precision on GPUs too: what the rounding of 16 bits
    would hide shows, and costs nothing.

    Args:
        source: of the model, as :class:`Model` has it.
    """
    if device.type != "cuda" or source == "tiny-random":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16


def inference_settings(model: Model, folder: Path, template: str, device: torch.device) -> dict[str, Any]:
    """For the model in ``folder``, ``model`` itself or what was made of it."""
    return {
        "model_name_or_path": str(folder),
        "template": template,
        "infer_dtype": str(precision(device, model.source)).removeprefix("torch."),
    }


def write_settings(path: Path, settings: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
