"""One self-contained HTML page: no network, no files beside it, readable on a phone, in the dark and on paper."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from harness.files import write_whole
from harness.judge.files import png_size
from harness.judge.verdict import Check, Group, RunFacts, Verdict, printable
from harness.report import format as fmt
from harness.report.entry import ReportEntry, count_checks, overall
from harness.report.labels import GROUPS, LABELS, PHASES, STATUSES
from harness.report.sparkline import sparkline
from harness.run.paths import RunPaths

MAX_PICTURE_BYTES = 512 * 1024
MAX_PICTURES = 4


@dataclass(frozen=True)
class Picture:
    """A PNG of the run, embedded."""

    name: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Phase:
    """A part of a step's time: ``share`` of the step in percent."""

    name: str
    seconds: float
    share: float


@dataclass(frozen=True)
class StepView:
    """What the page shows of a step besides its checks."""

    name: str
    phases: tuple[Phase, ...]
    parameters: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    metrics: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class RunView:
    """One card."""

    anchor: str
    entry: ReportEntry
    run: RunFacts
    verdict: Verdict
    device: str
    column: str
    groups: tuple[tuple[Group, tuple[Check, ...]], ...]
    steps: tuple[StepView, ...]
    pictures: tuple[Picture, ...]
    links: tuple[tuple[str, str], ...]
    headline: Check | None
    spark: str
    reason: Check | None
    elapsed: float | None


@dataclass(frozen=True)
class Row:
    """A tutorial of the matrix; one list of runs per device, in the matrix's column order."""

    tutorial: str
    title_en: str
    title_zh: str
    cells: tuple[tuple[RunView, ...], ...]


def render_html(
    entries: Sequence[ReportEntry], *, generated_at: datetime, base: Path | None = None, host: str | None = None
) -> str:
    """The page.

    Args:
        entries: the runs, in the order their cards appear.
        generated_at: the date it shows.
        base: the folder the page will lie in; links to run folders are relative to it, and left out without it.
        host: the machine it was made on.
    """
    columns = _columns(entries)
    views = [
        _view(entry, index, base, column) for index, (entry, column) in enumerate(zip(entries, columns, strict=True))
    ]
    devices = list(dict.fromkeys(view.column for view in views))
    environment = _environment()
    script = _source("page.js.j2")
    return environment.get_template("page.html").render(
        views=views,
        devices=devices,
        rows=_rows(views, devices),
        overall=overall(entries),
        counts=count_checks(entries),
        generated_at=generated_at,
        host=host,
        sites=sorted({view.run.site for view in views if view.run.site}),
        css=_source("page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def write_html(path: Path, entries: Sequence[ReportEntry]) -> Path:
    """Write the page to ``path``, dated now, with links relative to its folder; parent folders are made.

    Raises:
        OSError: it cannot be written.
    """
    text = render_html(
        entries,
        generated_at=datetime.now(tz=timezone.utc).astimezone(),
        base=path.parent,
        host=socket.gethostname(),
    )
    return write_whole(path, text)


def _environment() -> Environment:
    # Everything is escaped; the page's own style, script and drawings are marked safe in the template, by name.
    environment = Environment(
        loader=PackageLoader("harness.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(LABELS=LABELS, GROUPS=GROUPS, STATUSES=STATUSES, PHASES=PHASES)
    environment.filters.update(
        duration=fmt.duration,
        fraction=fmt.fraction_text,
        number=fmt.number,
        quantity=fmt.quantity,
        shortened=fmt.shortened,
        instant=_instant,
        breakable=_breakable,
    )
    return environment


def _source(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _view(entry: ReportEntry, index: int, base: Path | None, column: str) -> RunView:
    run, verdict = entry.verdict.run, entry.verdict
    headline = verdict.headline
    first_failure = next((check for check in verdict.checks if check.status == "fail"), None)
    elapsed = run.ended_at - run.started_at if run.started_at is not None and run.ended_at is not None else None
    return RunView(
        anchor=f"run-{index + 1}",
        entry=entry,
        run=run,
        verdict=verdict,
        device=fmt.device_label(run),
        column=column,
        groups=_groups(verdict),
        steps=_steps(entry),
        pictures=_pictures(entry),
        links=_links(entry.evidence.paths, base),
        headline=headline,
        spark=sparkline(headline.samples, floor=headline.floor) if headline else "",
        reason=first_failure,
        elapsed=elapsed if elapsed is not None and elapsed >= 0 else None,
    )


def _columns(entries: Sequence[ReportEntry]) -> list[str]:
    """The matrix column of each run: its device; for one that missed the device it was meant for, that kind's."""
    first: dict[str | None, str] = {}
    for entry in entries:
        run = entry.verdict.run
        if run.device_kind == run.variant and run.variant is not None:
            first.setdefault(run.variant, fmt.device_column(run))
    return [
        fmt.device_column(run)
        if run.device_kind == run.variant
        else first.get(run.variant, "GPU" if run.variant == "cuda" else "CPU")
        for run in (entry.verdict.run for entry in entries)
    ]


def _breakable(name: str) -> Markup:
    """A name that may be broken after its underscores, dots and brackets."""
    text = escape(name)
    for mark in "_.[/":
        text = text.replace(mark, Markup(f"{mark}<wbr>"))
    return text


def _groups(verdict: Verdict) -> tuple[tuple[Group, tuple[Check, ...]], ...]:
    groups: tuple[Group, ...] = ("run", "image", "output", "throughput", "site")
    found = ((group, tuple(check for check in verdict.checks if check.group == group)) for group in groups)
    return tuple((group, checks) for group, checks in found if checks)


def _rows(views: Sequence[RunView], devices: Sequence[str]) -> list[Row]:
    rows = []
    for tutorial in dict.fromkeys(view.run.tutorial for view in views):
        mine = [view for view in views if view.run.tutorial == tutorial]
        cells = tuple(tuple(view for view in mine if view.column == device) for device in devices)
        rows.append(Row(tutorial, mine[0].entry.title.en, mine[0].entry.title.zh, cells))
    return rows


def _steps(entry: ReportEntry) -> tuple[StepView, ...]:
    result = entry.evidence.result
    if result is None:
        return ()
    return tuple(
        StepView(
            name=printable(name),
            phases=_phases(step.phases),
            parameters=_texts(step.parameters.items()),
            versions=_texts(step.versions.items()),
            metrics=tuple(
                (printable(metric_name), fmt.quantity(metric.value, printable(metric.unit)), sparkline(metric.samples))
                for metric_name, metric in step.metrics.items()
            ),
        )
        for name, step in result.steps.items()
    )


def _phases(seconds: dict[str, float]) -> tuple[Phase, ...]:
    """The known phases in the order they happen; times that are not positive finite numbers are left out."""
    known = [(name, seconds[name]) for name in PHASES if 0 < seconds.get(name, 0) < float("inf")]
    total = sum(value for _, value in known)
    return tuple(Phase(name, value, 100 * value / total) for name, value in known)


def _texts(items: Iterable[tuple[str, Any]]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (printable(name), text if len(text) <= 120 else text[:119] + "…")
        for name, text in ((n, printable(str(v))) for n, v in items)
    )


def _pictures(entry: ReportEntry) -> tuple[Picture, ...]:
    """Small PNG files the run recorded, in its own order."""
    result = entry.evidence.result
    pictures: list[Picture] = []
    for step_name, step in (result.steps if result else {}).items():
        folder = entry.evidence.paths.outputs(step_name)
        for file in step.files:
            if len(pictures) < MAX_PICTURES and _inside(file.path) and file.path.lower().endswith(".png"):
                picture = _picture(folder / file.path, f"{step_name}/{file.path}")
                pictures.extend([picture] if picture else [])
    return tuple(pictures)


def _inside(path: str) -> bool:
    """Whether a recorded path stays below its folder: a result file is not trusted to name any file of the machine."""
    parts = PurePosixPath(path)
    return not parts.is_absolute() and ".." not in parts.parts


def _picture(path: Path, name: str) -> Picture | None:
    """The picture, or None for one that is missing, too large or no PNG: the output checks say which."""
    try:
        if path.is_symlink() or path.stat().st_size > MAX_PICTURE_BYTES:
            return None
        width, height = png_size(path)
        data = base64.b64encode(path.read_bytes()).decode()
    except (OSError, ValueError):
        return None
    return Picture(printable(name), f"data:image/png;base64,{data}", width, height)


def _links(paths: RunPaths, base: Path | None) -> tuple[tuple[str, str], ...]:
    """(name, relative address) of the run's files that are there."""
    if base is None:
        return ()
    files = (paths.result, paths.verdict, paths.log, paths.job, paths.ledger, paths.attempt_folder / "outputs")
    # Both ends as they are on disk: a relative path through a symbolic link would lead elsewhere.
    start = base.resolve()
    return tuple(
        (path.name, quote(Path(os.path.relpath(path.resolve(), start)).as_posix())) for path in files if path.exists()
    )
