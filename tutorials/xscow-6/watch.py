"""What is measured and kept while LLaMA-Factory trains, and what an interrupted training leaves to go on from."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from harness.runtime import Team, Throughput


class EpochWatch(TrainerCallback):
    """Times each epoch, in tokens of the records of all processes (padding does not count).

    Attributes:
        meter: tokens per second; the first epoch after a start is warm-up, unless it is the last.
        records, tokens: of an epoch.
        steps: done so far, those before an interruption too.
        resumed_after: steps of the checkpoint that the training went on from; 0: from the start.
        losses: one for each ``logging_steps``, likewise from the start.
    """

    def __init__(self, device: torch.device) -> None:
        self._synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        self.meter = Throughput(synchronize=self._synchronize)
        self.records = self.tokens = 0
        self.steps = 0
        self.resumed_after = 0
        self.losses: list[float] = []
        self.eval_loss: float | None = None
        self._window = ExitStack()
        self._steps_at_start: list[int] = []

    def on_train_begin(self, args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        # All of it here, not at the first step: a checkpoint of the last step leaves none to do.
        self.resumed_after = self.steps = state.global_step
        self.losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        records = kwargs["train_dataloader"].dataset
        self.records, self.tokens = len(records), sum(len(record["input_ids"]) for record in records)
        left = (state.max_steps - state.global_step) * args.num_train_epochs / state.max_steps
        self.meter = Throughput(warm_up=1 if left > 1 else 0, synchronize=self._synchronize)

    def on_epoch_begin(self, args: Any, state: Any, _control: Any, **_kwargs: Any) -> None:
        per_epoch = state.max_steps / args.num_train_epochs
        left = 1 - state.global_step % per_epoch / per_epoch  # of the epoch a checkpoint was written in
        self._steps_at_start.append(state.global_step)
        self._window.enter_context(self.meter.window(units=self.tokens * left))

    def on_epoch_end(self, _args: Any, state: Any, _control: Any, **_kwargs: Any) -> None:
        self._window.close()
        self.steps = state.global_step

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float], **_kwargs: Any) -> None:
        self.losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        self.eval_loss = logs.get("eval_loss", self.eval_loss)

    def steps_per_second(self) -> float:
        """Over the measured epochs."""
        first = self._steps_at_start[len(self._steps_at_start) - len(self.meter.measured)]
        return (self.steps - first) / self.meter.measured_seconds


def of_all_ranks(team: Team, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Each rank's ``facts`` beside what the team knows of it, in the order of ranks. Every rank must call it."""
    gathered: list[Any] = [facts]
    if team.size > 1:
        gathered = [None] * team.size
        torch.distributed.all_gather_object(gathered, facts)
    return [{**member, **said} for member, said in zip(team.members, gathered, strict=True)]


def forget_unusable(adapter: Path) -> None:
    """Remove what a training must not go on from: a finished adapter, and checkpoints that a kill cut short.

    The trainer writes ``trainer_state.json`` last: a checkpoint without it, or with half of it, is not whole.
    """
    if (adapter / "adapter_model.safetensors").exists():
        shutil.rmtree(adapter)
    for folder in adapter.glob("checkpoint-*"):
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            print(f"warning: {folder} was being written when the training was stopped; it is not used")
            shutil.rmtree(folder)
