"""Judging runs, and making more of those whose throughput is too near its gate for one run to decide.

What more runs can change is the answer about the throughput, by the median of three (the rates of that rule are in
:mod:`harness.judge.statistics`). Every run is judged by its own outputs, image and device: a re-run never mends those,
and one that fails them decides nothing about the throughput.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.history.judging import Case, decides, first_of, judge_all
from harness.judge.statistics import RUNS_TO_DECIDE
from harness.judge.verdict import Verdict
from harness.project import Project
from harness.run.paths import RunPaths
from harness.run.reruns import resubmit
from harness.site import DEFAULT_RERUNS, DEFAULT_SITE, load_site

Load = Callable[[Sequence[RunPaths]], list[Case]]
Wait = Callable[[Sequence[RunPaths]], None]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Judged:
    """Cases and their verdicts, in one order, the re-runs last; ``problems``: what could not be read."""

    cases: list[Case]
    verdicts: list[Verdict]
    problems: list[str]


def judge_until_decided(
    project: Project, cases: Sequence[Case], *, load: Load, wait: Wait, tell: Tell, limit: int | None = None
) -> Judged:
    """Judge runs; submit, await and judge re-runs of those that are near a gate.

    Args:
        load: evidence, tutorial and image of runs.
        wait: returns when runs have ended.
        tell: takes a line about what is submitted, or why nothing is.
        limit: re-runs for each run at most, those made earlier included; None: as tutorial and site say.

    Raises:
        HarnessError: waiting failed.
    """
    every = list(cases)
    told: set[str] = set()
    while True:
        verdicts, problems = judge_all(project, every)
        new: list[RunPaths] = []
        for case, verdict in zip(every, verdicts, strict=True):
            members = _members(case, every, verdicts)
            count = _missing(project, case, verdict, members, limit)
            if not count or verdict.run.run_id in told:
                continue
            try:
                new += resubmit(
                    project, case[0].paths, count, known={member.run.run_id for member in members}, progress=tell
                )
                tell(f"{verdict.run.run_id}: its throughput is near a gate; {count} more runs decide")
            except HarnessError as error:
                told.add(verdict.run.run_id)
                tell(f"{verdict.run.run_id}: its throughput is near a gate, and it is not run again: {error}")
        known = {evidence.paths.run_id for evidence, _, _ in every}
        new = [run for run in new if run.run_id not in known]  # one whose ledger no longer names its first run
        if not new:
            return Judged(every, verdicts, problems)
        wait(new)
        every += load(new)


def reruns_allowed(project: Project, case: Case) -> int:
    """As the tutorial says, else the site, by preset; 0 for a run whose preset or site is unknown here."""
    evidence, tutorial, _ = case
    if tutorial.throughput.reruns is not None:
        return tutorial.throughput.reruns
    site = evidence.fact("site") or DEFAULT_SITE
    by_preset = load_site(project, site).reruns if project.site_file(site).is_file() else {}
    return next((n for preset, n in {**DEFAULT_RERUNS, **by_preset}.items() if preset == evidence.preset), 0)


def _members(case: Case, cases: Sequence[Case], verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts of a run and of its re-runs."""
    first = first_of(case[0])
    return [verdict for other, verdict in zip(cases, verdicts, strict=True) if first_of(other[0]) == first]


def _missing(project: Project, case: Case, verdict: Verdict, members: Sequence[Verdict], limit: int | None) -> int:
    """How many more runs decide about this one; 0 where none would, none is allowed, or it is a re-run itself."""
    run = case[0].paths
    if not verdict.wants_rerun or first_of(case[0]) != run.run_id:
        return 0
    allowed = (reruns_allowed(project, case) if limit is None else limit) - (len(members) - 1)
    needed = RUNS_TO_DECIDE - sum(decides(member) for member in members)
    # Fewer than needed would decide nothing, and cost as much.
    return needed if 0 < needed <= allowed else 0
