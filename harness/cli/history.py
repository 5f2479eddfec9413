"""history, compare, accept: what was measured before, and what is right."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import astuple
from typing import Annotated

import typer
from rich.table import Table

from harness.cli.console import print_table
from harness.cli.options import SiteOption
from harness.errors import UserError
from harness.history.effect import Effect, effect
from harness.history.location import history_url
from harness.history.selection import FORMS, selection
from harness.history.store import History, Point, SeriesKey
from harness.judge.numbers import shown
from harness.judge.verdict import VerdictError, load_verdict
from harness.project import Project
from harness.run.records import newest_runs
from harness.site import DEFAULT_SITE, load_site
from harness.tutorial import load_tutorial

LOWER_WORDS, HIGHER_WORDS = "slower", "faster"


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    for command in (history, compare, accept):
        app.command()(command)


def history(
    tutorial: Annotated[str | None, typer.Argument(metavar="[TUTORIAL]", help="Number, id or stem; none: all.")] = None,
    last: Annotated[int, typer.Option("--last", "-n", help="Look at this many of the newest measurements.")] = 1000,
    collect: Annotated[
        bool, typer.Option("--collect", help="First record the verdicts in runs/, e.g. after a server was away.")
    ] = False,
    site: SiteOption = DEFAULT_SITE,
) -> None:
    """Show the throughput measured so far, a line per tutorial, preset, source of the model, GPU model and count.

    Kept in runs/.history.sqlite, in the site's storage.history, or where HARNESS_HISTORY says: any database URL.

    Examples: harness history; harness history 2; HARNESS_HISTORY=postgresql+psycopg://host/db harness history
    """
    project = Project.find()
    store = _open(project, site)
    if collect:
        typer.echo(f"recorded {_collect(project, store)} verdicts")
    chosen = load_tutorial(project, tutorial).id if tutorial else None
    series = _by_series(store.newest(chosen, last))
    references = {reference.key: reference for reference in store.references()}
    table = Table(
        "tutorial", "model", "device", "runs", "median", "newest", "reference", "last", box=None, pad_edge=False
    )
    for key, points in series.items():
        values = sorted(point.value for point in points if point.overall != "fail")
        reference = references.get(key)
        table.add_row(
            f"{key.tutorial}.{key.variant}.{key.preset}",
            key.model_source or "-",
            f"{key.device_count} x {key.device}",
            f"{len(values)}" + (f" (+{len(points) - len(values)} failed)" if len(values) < len(points) else ""),
            f"{shown(values[len(values) // 2])} {key.unit}" if values else "-",
            shown(points[-1].value),
            f"{shown(reference.value)} ({reference.accepted_by}: {reference.why})" if reference else "-",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(points[-1].ended_at)),
        )
    if not series:
        raise UserError("the history is empty", fix="harness check records each run it judges")
    print_table(table)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=f"Which runs: {FORMS}.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Which runs to hold against them.")],
    confidence: Annotated[float, typer.Option(help="Of the interval, 0.5 to 0.999.")] = 0.95,
    fail_below: Annotated[
        float | None,
        typer.Option(help="Exit code 1 where B is clearly below this fraction of A, e.g. 0.95."),
    ] = None,
    site: SiteOption = DEFAULT_SITE,
) -> None:
    """Compare the throughput of two groups of runs: the ratio B/A, with its confidence interval.

    Only like is compared with like: same tutorial, variant, preset, source of the model, metric, GPU model and count.
    Runs that failed are left out. One run against one: there is no interval, for nothing says how much runs differ by
    themselves.

    Examples: harness compare date:2026-11-01..2026-11-07 date:2026-11-08..; harness compare image:3f2a image:9c01;
    harness compare site:a site:b --fail-below 0.95
    """
    if not 0.5 <= confidence <= 0.999:
        raise UserError(f"--confidence is {confidence}", fix="give 0.5 to 0.999")
    store = _open(Project.find(), site)
    groups = [_by_series(store.select(selection(text))) for text in (a, b)]
    for text, group in zip((a, b), groups, strict=True):
        if not group:
            raise UserError(f"no measured run is '{text}'", fix="harness history shows what there is")
    common = [key for key in groups[0] if key in groups[1]]
    if not common:
        raise UserError(
            "the two groups share no tutorial, variant, preset, source of the model, metric, GPU model and count",
            fix="harness history shows what there is",
        )
    table = Table("tutorial", "model", "device", "A", "B", "B/A", "confidence", "in words", box=None, pad_edge=False)
    broken = False
    for key in common:
        values = [[point.value for point in group[key]] for group in groups]
        found = effect(values[0], values[1], confidence)
        broken |= fail_below is not None and (found.high if found.high is not None else found.ratio) < fail_below
        table.add_row(
            f"{key.tutorial}.{key.variant}.{key.preset}",
            key.model_source or "-",
            f"{key.device_count} x {key.device}",
            *(f"{shown(sorted(group)[len(group) // 2])} {key.unit} ({len(group)})" for group in values),
            f"{found.ratio:.3f}",
            _interval(found),
            in_words(found),
        )
    print_table(table)
    left = [key for group in groups for key in group if key not in common]
    if left:
        typer.echo(f"not compared, in one group only: {len(left)} series")
    if broken:
        raise typer.Exit(1)


def accept(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run id or folder; it must be judged and not failed.")],
    why: Annotated[str, typer.Option("--why", help="The reason, for whoever asks later.")],
    site: SiteOption = DEFAULT_SITE,
) -> None:
    """Make a run's throughput the reference of its tutorial, GPU model and count; earlier runs no longer count.

    For a change that is meant: a new driver, another power limit, a slower but right program.

    Example: harness accept runs/tutorial2-cuda-bench-20261121T101500Z-ab12 --why "driver 580, power limit 600 W"
    """
    reference = _open(Project.find(), site).accept(run.rstrip("/").rpartition("/")[2], why)
    key = reference.key
    model = f", model {key.model_source}," if key.model_source else ""
    typer.echo(
        f"{key.tutorial}.{key.variant}.{key.preset}{model} on {key.device_count} x {key.device}: "
        f"{shown(reference.value)} {key.unit}, accepted by {reference.accepted_by}: {reference.why}"
    )


def in_words(found: Effect) -> str:
    """The effect as a short sentence."""
    percent = abs(found.ratio - 1) * 100
    word = LOWER_WORDS if found.ratio < 1 else HIGHER_WORDS
    if found.low is None:
        return f"{percent:.1f} % {word}, one run each: no confidence"
    if found.is_clear:
        return f"B is {percent:.1f} % {word}"
    return "no difference shown"


def _interval(found: Effect) -> str:
    if found.low is None or found.high is None or found.confidence is None:
        return "-"
    return f"{found.low:.3f} to {found.high:.3f} ({found.confidence:.0%})"


def _open(project: Project, site: str) -> History:
    return History.open(history_url(project, load_site(project, site)))


def _by_series(points: Sequence[Point]) -> dict[SeriesKey, list[Point]]:
    series: dict[SeriesKey, list[Point]] = {}
    for point in points:
        series.setdefault(point.key, []).append(point)
    return dict(sorted(series.items(), key=lambda item: astuple(item[0])))


def _collect(project: Project, store: History) -> int:
    verdicts = []
    for record in newest_runs(project):
        try:
            verdicts.append(load_verdict(record.paths.verdict))
        except FileNotFoundError:
            continue  # not judged yet
        except VerdictError as error:
            typer.echo(f"left out: {error}", err=True)
    store.record(verdicts)
    return len(verdicts)
