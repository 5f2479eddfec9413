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
    series: dict[SeriesKey, list[int]] = {}
    for index, verdict in enumerate(alone):
        if found := series_of(verdict):
            series.setdefault(found[0], []).append(index)
    histories = _Histories(project)
    ids = {verdict.run.run_id for verdict in alone}
    verdicts = list(alone)
    for key, members in series.items():
        earlier = _earlier(histories, key, [alone[index] for index in members])
        repeats = {index: repeat for index in members if (repeat := _repeat(key, alone[index])) is not None}
        for index in members:
            points = earlier.get(alone[index].run.run_id)
            if points is None:
                continue
            background = Background(
                roofs=roofs,
                earlier=tuple(_other(point) for point in points if point.run_id not in ids),
                repeats=tuple(repeat for other, repeat in repeats.items() if other != index),
            )
            verdicts[index] = judge_run(*cases[index], background)
    return verdicts, histories.problems


class _Histories:
    """The histories of sites, each opened once; ``problems`` has a line for each that could not be read."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._opened: dict[str, History | None] = {}
        self.problems: list[str] = []

    def of(self, site: str) -> History | None:
        if site not in self._opened:
            try:
                self._opened[site] = History.open(history_of(self._project, site))
            except HarnessError as error:
                self._opened[site] = None
                self.problems.append(f"not compared with earlier runs: {error}")
        return self._opened[site]


def _earlier(histories: _Histories, key: SeriesKey, verdicts: Sequence[Verdict]) -> dict[str, list[Point]]:
    """What each run of a series is held against, by run id; runs whose site's history cannot be read are left out."""
    now = time.time()
    by_site: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_site.setdefault(verdict.run.site or DEFAULT_SITE, []).append(verdict)
    found: dict[str, list[Point]] = {}
    for site, runs in by_site.items():
        history = histories.of(site)
        if history is not None:
            baselines = history.baselines(key, {run.run.started_at or now for run in runs})
            found.update({run.run.run_id: baselines[run.run.started_at or now] for run in runs})
    return found


def _repeat(key: SeriesKey, verdict: Verdict) -> OtherRun | None:
    """A run as its campaign's other runs of the same thing see it; None where it says nothing about them."""
    check = verdict.headline
    if check is None or check.value is None or check.status == "fail":
        return None
    return OtherRun(check.value, key.unit, key.device, key.device_count, verdict.run.gpu_shared)


def _other(point: Point) -> OtherRun:
    return OtherRun(point.value, point.key.unit, point.key.device, point.key.device_count)
