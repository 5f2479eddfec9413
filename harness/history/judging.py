"""Judging runs against what was measured before."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from harness.errors import HarnessError
from harness.history.location import history_of
from harness.history.store import History, Point, SeriesKey, series_of
from harness.hooks import SiteHooks, load_hooks
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
    """Judge runs; a run and its re-runs decide about its throughput together.

    Only those: a slow run is not made right by others that somebody made at another time.

    Returns:
        The verdicts, in order, and a line for each history that could not be read: it costs the comparison with
        earlier runs, nothing else, and the verdicts say so.
    """
    cases = [(evidence, as_run(evidence, tutorial), image) for evidence, tutorial, image in cases]
    roofs = tuple(load_roofs(project.roofs))
    # Without the site's hooks, which are asked once.
    alone = [judge_run(evidence, tutorial, image, Background(roofs=roofs)) for evidence, tutorial, image in cases]
    backgrounds, problems = _backgrounds(project, cases, alone, Background(roofs=roofs))
    hooks: dict[str, SiteHooks] = {}
    verdicts = []
    for (evidence, tutorial, image), verdict, background in zip(cases, alone, backgrounds, strict=True):
        site = evidence.fact("site") or DEFAULT_SITE
        if site not in hooks:
            hooks[site] = load_hooks(project, site)
        unchanged = background is None and not hooks[site].hooks
        known = background or Background(roofs=roofs)
        verdicts.append(verdict if unchanged else judge_run(evidence, tutorial, image, known, hooks[site]))
    return verdicts, problems


def as_run(evidence: Evidence, tutorial: Tutorial) -> Tutorial:
    """The tutorial with the throughput that this run is judged by: that of the engine it was told to use."""
    step = evidence.result.steps.get(tutorial.throughput.step) if evidence.result else None
    return tutorial.as_run(step.parameters) if step else tutorial


def _backgrounds(
    project: Project, cases: Sequence[Case], alone: Sequence[Verdict], common: Background
) -> tuple[list[Background | None], list[str]]:
    """What each run is held against beside ``common``, None for nothing; a series is asked for once, for all runs."""
    firsts = [first_of(evidence) for evidence, _, _ in cases]
    series: dict[SeriesKey, list[int]] = {}
    for index, verdict in enumerate(alone):
        if found := series_of(verdict):
            series.setdefault(found[0], []).append(index)
    histories = _Histories(project)
    ids = {verdict.run.run_id for verdict in alone}
    backgrounds: list[Background | None] = [None] * len(alone)
    for key, members in series.items():
        earlier = _earlier(histories, key, [alone[index] for index in members])
        families: dict[str, dict[int, OtherRun]] = {}
        for index in members:
            if (repeat := _repeat(key, alone[index])) is not None:
                families.setdefault(firsts[index], {})[index] = repeat
        for index in members:
            points = earlier.get(alone[index].run.run_id)
            family = families.get(firsts[index], {})
            repeats = tuple(repeat for other, repeat in family.items() if other != index)
            if points is None and not repeats:
                continue
            backgrounds[index] = replace(
                common,
                earlier=tuple(_other(point) for point in points or () if point.run_id not in ids),
                repeats=repeats,
            )
    return backgrounds, histories.problems


def first_of(evidence: Evidence) -> str:
    """Id of the run that this one repeats; its own where it repeats none."""
    return str(evidence.ledger.get("rerun_of") or evidence.paths.run_id)


def decides(verdict: Verdict) -> bool:
    """Whether a run's rate counts: all is right with it but, perhaps, that it is slow."""
    found = series_of(verdict)
    if found is None:
        return False
    about_speed = {found[1].key, (*found[1].key[:2], f"{found[1].name}.history")}
    return all(check.status != "fail" or check.key in about_speed for check in verdict.checks)


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
    """A run as the others of its family see it; None where it does not count."""
    found = series_of(verdict)
    if found is None or found[1].value is None or not decides(verdict):
        return None
    return OtherRun(found[1].value, key.unit, key.device, key.device_count, verdict.run.gpu_shared)


def _other(point: Point) -> OtherRun:
    return OtherRun(point.value, point.key.unit, point.key.device, point.key.device_count)
