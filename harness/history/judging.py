"""Judging runs against what was measured before."""

from __future__ import annotations

import time
from collections.abc import Sequence

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
    roofs = tuple(load_roofs(project.roofs))
    # Without the site's hooks, which are asked once.
    alone = [judge_run(evidence, tutorial, image, Background(roofs=roofs)) for evidence, tutorial, image in cases]
    firsts = [first_of(evidence) for evidence, _, _ in cases]
    hooks: dict[str, SiteHooks] = {}
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
    for (evidence, tutorial, image), verdict, first in zip(cases, alone, firsts, strict=True):
        site = evidence.fact("site") or DEFAULT_SITE
        if site not in hooks:
            hooks[site] = load_hooks(project, site)
        own = hooks[site]
        found = series_of(verdict)
        repeats: list[OtherRun] = []
        if found is not None:
            members = [other for other, name in zip(alone, firsts, strict=True) if name == first]
            repeats = _repeats(found[0], verdict, members)
        history = opened(verdict) if found else None
        if found is None or history is None:
            unchanged = not repeats and not own.hooks
            background = Background(roofs=roofs, repeats=tuple(repeats))
            verdicts.append(verdict if unchanged else judge_run(evidence, tutorial, image, background, own))
            continue
        key = found[0]
        earlier = history.baseline(key, before=verdict.run.started_at or time.time())
        background = Background(
            roofs=roofs,
            earlier=tuple(_other(point) for point in earlier if point.run_id not in ids),
            repeats=tuple(repeats),
        )
        verdicts.append(judge_run(evidence, tutorial, image, background, own))
    return verdicts, problems


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


def _repeats(key: SeriesKey, verdict: Verdict, family: Sequence[Verdict]) -> list[OtherRun]:
    """The other runs of its family that count, of the same thing."""
    repeats = []
    for other in family:
        found = series_of(other)
        if found is None or found[0] != key or other.run.run_id == verdict.run.run_id:
            continue
        value = found[1].value
        if value is not None and decides(other):
            repeats.append(OtherRun(value, key.unit, key.device, key.device_count, other.run.gpu_shared))
    return repeats


def _other(point: Point) -> OtherRun:
    return OtherRun(point.value, point.key.unit, point.key.device, point.key.device_count)
