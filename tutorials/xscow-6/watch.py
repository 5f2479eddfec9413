"""What is measured and kept while LLaMA-Factory trains, and what an interrupted training leaves to go on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from harness.runtime import StepRun, Team, Throughput
from harness.runtime.checkpoint import refuse_other_parameters
from harness.runtime.files import write_json

PARAMETERS = "parameters.json"  # beside the checkpoints: what they were made with


class EpochWatch(TrainerCallback):
    """Times each epoch, in tokens of the records of all processes (padding does not count).

    Writing checkpoints is not training: a phase of its own, left out of the epoch's time.

    Attributes:
        meter: tokens per second; the first epoch after a start is warm-up, unless it is the last.
        records, tokens: of an epoch.
        steps: done so far, those before an interruption too.
        resumed_after: steps of the checkpoint that the training went on from; 0: from the start.
        losses: one for each ``logging_steps``, likewise from the start.
    """

    def __init__(self, run: StepRun, device: torch.device) -> None:
        self._run = run
        self._synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        self.meter = Throughput(synchronize=self._synchronize)
        self.records = self.tokens = 0
        self.steps = 0
        self.resumed_after = 0
        self.losses: list[float] = []
        self.eval_loss: float | None = None
        self._window, self._saving = ExitStack(), ExitStack()
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

    def on_step_end(self, _args: Any, _state: Any, control: Any, **_kwargs: Any) -> None:
        if control.should_save:  # the trainer's own callback, which decides this, comes before all others
            self._saving.enter_context(self._run.phase("checkpoint"))
            self._saving.enter_context(self.meter.pause())

    def on_save(self, _args: Any, _state: Any, _control: Any, **_kwargs: Any) -> None:
        self._saving.close()

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


def begin_or_go_on(adapter: Path, parameters: Mapping[str, Any]) -> None:
    """Leave in ``adapter`` what LLaMA-Factory may go on from: whole checkpoints of a training with these parameters.

    It takes the newest checkpoint it finds. The trainer writes ``trainer_state.json`` last: a checkpoint without it, or
    with half of it, was cut short by a kill. What an earlier end wrote beside them goes: the library would refuse it
    where there is no checkpoint, and elsewhere write into files that may be an earlier attempt's as well.

    Raises:
        ProgramError: the checkpoints were made with other parameters.
    """
    for folder in checkpoints(adapter):
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            print(f"warning: {folder} was being written when the training was stopped; it is not used")
            shutil.rmtree(folder)
    noted, usable = adapter / PARAMETERS, checkpoints(adapter)
    if usable and noted.is_file():
        refuse_other_parameters(adapter, json.loads(noted.read_text(encoding="utf-8")), parameters)
    adapter.mkdir(parents=True, exist_ok=True)
    for path in set(adapter.iterdir()) - set(usable):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    write_json(noted, dict(parameters))


def checkpoints(adapter: Path) -> list[Path]:
    """Oldest first."""
    return sorted(adapter.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def keep_the_last(adapter: Path) -> None:
    """Of a training that is done: its last checkpoint is enough where a later step of the run is stopped."""
    for folder in checkpoints(adapter)[:-1]:
        shutil.rmtree(folder)
