"""All that is known of runs: their folders first, then one query to the scheduler for those that are silent."""

from __future__ import annotations

from collections.abc import Sequence

from harness.project import Project
from harness.run.evidence import Evidence, gather_evidence
from harness.run.following import scheduler_words
from harness.run.paths import RunPaths
from harness.run.records import read_record


def gather(project: Project, run: RunPaths) -> Evidence:
    """All that is known of a run; the scheduler is asked only where the run itself is silent."""
    return gather_all(project, [run])[0]


def gather_all(project: Project, runs: Sequence[RunPaths]) -> list[Evidence]:
    """All that is known of each run, in their order; cost as :func:`harness.run.following.scheduler_words`."""
    words = scheduler_words(project, [read_record(run) for run in runs])
    return [gather_evidence(run, scheduler=words.get(run.run_id)) for run in runs]
