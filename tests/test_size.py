"""How many nodes and processes a person may ask for, and what that asks the scheduler for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.job.size import Size
from harness.project import Project, Variant
from harness.tutorial import load_tutorial, tutorial_ids

PROJECT = Project(Path(__file__).parent.parent)


@pytest.mark.parametrize(
    ("tutorial_id", "variant", "size", "options"),
    [
        ("mnist", "cuda", Size(), ()),
        ("mnist", "cuda", Size(processes=2), ("--cpus-per-task=4", "--mem=16384M", "--gres=gpu:2")),
        ("mnist", "cuda", Size(nodes=2), ("--nodes=2",)),
        ("mnist", "cpu", Size(2, 2), ("--nodes=2", "--cpus-per-task=4", "--mem=8192M")),
        ("xscow-3", "cuda", Size(processes=4), ("--cpus-per-task=32", "--mem=131072M", "--gres=gpu:4")),
        ("xscow-2", "cuda", Size(1, 1), ("--nodes=1", "--cpus-per-task=2", "--mem=8192M", "--gres=gpu:1")),
    ],
)
def test_each_process_has_what_the_tutorial_gives_one(
    tutorial_id: str, variant: Variant, size: Size, options: tuple[str, ...]
) -> None:
    assert size.options(load_tutorial(PROJECT, tutorial_id), variant, "gpu") == options


@pytest.mark.parametrize(
    ("tutorial_id", "size", "words"),
    [
        ("xscow-2", Size(processes=2), "xscow-2: it cannot use --processes 2: no step of it says that it scales"),
        ("scow-10", Size(nodes=4), "scow-10: it cannot use --nodes 4"),
        ("xscow-3", Size(processes=1), "xscow-3: --processes 1 is too few"),
    ],
)
def test_what_a_tutorial_cannot_use_is_refused_before_it_waits_in_a_queue(
    tutorial_id: str, size: Size, words: str
) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        size.options(load_tutorial(PROJECT, tutorial_id), "cuda", "gpu")


def test_what_may_scale_is_judged_by_bounds_that_more_processes_keep() -> None:
    scaling = [tutorial for name in tutorial_ids(PROJECT) if (tutorial := load_tutorial(PROJECT, name)).scales]
    assert {"mnist", "xscow-3", "scow-3"} <= {tutorial.id for tutorial in scaling}
    for tutorial in scaling:
        bounds = [e for e in tutorial.expectations if e.name == "world_size"]
        assert all(getattr(e, "equals", None) is None and getattr(e, "max", None) is None for e in bounds), tutorial.id
