"""Judging runs against what was measured before."""

from __future__ import annotations

import time
from collections.abc import Sequence

from harness.errors import HarnessError
from harness.history.location import history_of
from harness.history.store import History, Point, SeriesKey, series_of
from harness.judge.background import Background, OtherRun
from harness.judge.judge import judge_run
from harness.judge.verdict import Verdict
from harness.project import Project
from harness.roof import load_roofs
from harness.run.evidence import Evidence, ExpectedImage
from harness.site import DEFAULT_SITE
from harness.tutorial import Tutorial

Case = tuple[Evidence, Tutorial, ExpectedImage | None]


def judge_all(project: Project, cases: Sequence[Case]) -> tuple[list[Verdict], list[str]]:
    """Judge runs of one campaign together: runs of the same thing decide about its throughput together.

    Returns:
        The verdicts, in order, and a line for each history that could not be read: it costs the comparison with
        earlier runs, nothing else, and the verdicts say so.
    """
    roofs = tuple(load_roofs(project.roofs))
    alone = [judge_run(evidence, tutorial, image, Background(roofs=roofs)) for evidence, tutorial, image in cases]
    histories: dict[str, History | None] = {}
    problems: list[str] = []

    def opened(verdict: Verdict) -> History | None:
        site = verdict.run.site or DEFAULT_SITE
        if site not in histories:
            try:
                histories[site] = History.open(history_of(project, site))
            except HarnessError as error:
                histories[site] = None
                problems.append(f"not compared with earlier runs: {error}")
        return histories[site]

    verdicts = []
    ids = {verdict.run.run_id for verdict in alone}
    for (evidence, tutorial, image), verdict in zip(cases, alone, strict=True):
        found = series_of(verdict)
        history = opened(verdict) if found else None
        if found is None or history is None:
            verdicts.append(verdict)
            continue
        key = found[0]
        earlier = history.baseline(key, before=verdict.run.started_at or time.time())
        background = Background(
            roofs=roofs,
            earlier=tuple(_other(point) for point in earlier if point.run_id not in ids),
            repeats=tuple(_repeats(key, verdict, alone)),
        )
        verdicts.append(judge_run(evidence, tutorial, image, background))
    return verdicts, problems


def _repeats(key: SeriesKey, verdict: Verdict, campaign: Sequence[Verdict]) -> list[OtherRun]:
    """The campaign's other runs of the same thing."""
    repeats = []
    for other in campaign:
        found = series_of(other)
        if found is None or found[0] != key or other.run.run_id == verdict.run.run_id:
            continue
        value = found[1].value
        if value is not None and found[1].status != "fail":
            repeats.append(OtherRun(value, key.unit, key.device, key.device_count, other.run.gpu_shared))
    return repeats


def _other(point: Point) -> OtherRun:
    return OtherRun(point.value, point.key.unit, point.key.device, point.key.device_count)
