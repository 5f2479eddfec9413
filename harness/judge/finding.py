"""What a check of an output found, and where it may look."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness.judge.said import Said, same, say
from harness.judge.verdict import Status
from harness.run.result import StepResult


class Finding(NamedTuple):
    """What a check found: its status, one line, the number behind it, and what would have passed."""

    status: Status
    message: Said
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


def missing(name: str, step: StepResult) -> Said:
    """The message for an output the step did not report."""
    return say(
        "the step did not report '{name}'; it reported: {found}",
        "该步骤没有报告“{name}”；它报告了：{found}",
        name=name,
        found=listed(step.outputs),
    )


def listed(names: Iterable[str]) -> Said:
    """At most eight names, in order, and how many more there are; ``nothing`` for none."""
    every = sorted(names)
    if not every:
        return say("nothing", "无")
    first = ", ".join(every[:8])
    if len(every) <= 8:
        return same(first)
    return say("{first} and {more} more", "{first} 等（另有 {more} 个）", first=first, more=len(every) - 8)
