"""Which checks a run will get, known from the tutorial alone, before anything has run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harness.hooks import NO_HOOKS, SiteHooks
from harness.judge.verdict import Group
from harness.tutorial import Expectation, PresetName, Tutorial


class CheckKey(NamedTuple):
    """Identity of a check within a run."""

    group: Group
    step: str | None
    name: str


RUN_CHECKS = ("job", "result", "identity")
IMAGE_CHECKS = ("digest", "definition")
OUTPUTS_JUDGED = "judged"


def throughput_names(metric: str) -> tuple[str, str, str, str]:
    """Names of the throughput checks: against the floor, the hardware's limit, steadiness, and earlier runs."""
    return metric, f"{metric}.limit", f"{metric}.steady", f"{metric}.history"


def output_names(expectations: Sequence[Expectation]) -> list[str]:
    """A name for each expectation, unique within its step.

    Two expectations may share an output and differ by ``when``: ``test_accuracy[source=digits]``.
    """
    names: list[str] = []
    taken: set[tuple[str, str]] = set()
    for expectation in expectations:
        condition = ",".join(f"{key}={value}" for key, value in expectation.when.items())
        base = f"{expectation.name}[{condition}]" if condition else expectation.name
        name, number = base, 2
        while (expectation.step, name) in taken:
            name, number = f"{base}#{number}", number + 1
        taken.add((expectation.step, name))
        names.append(name)
    return names


def plan_checks(tutorial: Tutorial, preset: PresetName, hooks: SiteHooks = NO_HOOKS) -> tuple[CheckKey, ...]:
    """Keys of the checks :func:`harness.judge.judge_run` answers for a run of ``preset``, in that order."""
    steps = [step.name for step in tutorial.steps]
    expected = tutorial.expected(preset)
    return (
        *(CheckKey("run", None, name) for name in RUN_CHECKS),
        *(CheckKey("run", step, "completed") for step in steps),
        *(CheckKey("image", None, name) for name in IMAGE_CHECKS),
        *(CheckKey("image", step, "device") for step in steps),
        CheckKey("output", None, OUTPUTS_JUDGED),
        *(
            CheckKey("output", expectation.step, name)
            for expectation, name in zip(expected, output_names(expected), strict=True)
        ),
        *(
            CheckKey("throughput", tutorial.throughput.step, name)
            for name in throughput_names(tutorial.throughput.metric)
        ),
        *(CheckKey("site", None, hook.name) for hook in hooks.hooks),
    )
