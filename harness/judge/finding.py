"""What a check of an output found, and where it may look."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness.judge.verdict import Status
from harness.run.result import StepResult


class Finding(NamedTuple):
    """What a check found: its status, one line, the number behind it, and what would have passed."""

    status: Status
    message: str
    value: float | None = None
    expected: str | None = None
    samples: tuple[float, ...] = ()


@dataclass(frozen=True)
class StepOutputs:
    """What a step reported, and the folder it left its files in."""

    step: StepResult
    folder: Path


OtherStep = Callable[[str], StepOutputs | None]
"""The outputs of another step of the run, or None where it is not in the result."""


def missing(name: str, step: StepResult) -> str:
    """The message for an output the step did not report."""
    return f"the step did not report '{name}'; it reported: {listed(step.outputs)}"


def listed(names: Iterable[str]) -> str:
    """At most eight names, in order, and how many more there are; ``nothing`` for none."""
    every = sorted(names)
    return ", ".join(every[:8]) + (f" and {len(every) - 8} more" if len(every) > 8 else "") or "nothing"
