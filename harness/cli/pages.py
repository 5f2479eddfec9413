"""docs: from tutorials to a page for their readers, in both languages; and what was measured of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Annotated

import typer

from harness.cli.generated import write_or_check
from harness.cli.options import PresetOption, SiteOption, VariantOption
from harness.cli.runs import judge
from harness.errors import UserError
from harness.page import LANGUAGES, measured_time, page_file, render_page
from harness.project import Project, image_name, parse_preset, parse_variant
from harness.report.entry import ReportEntry
from harness.report.measured import STEM, Measured, measured_pages
from harness.run.campaign import project_catalog
from harness.run.following import has_ended
from harness.run.paths import RunPaths
from harness.run.records import latest_run
from harness.site import DEFAULT_SITE
from harness.tutorial import Tutorial, load_tutorial, tutorial_ids


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command("docs")(docs)


def docs(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 where a file is not up to date.")
    ] = False,
    measured: Annotated[
        bool, typer.Option("--measured", help="Write the table of the newest runs of all tutorials instead.")
    ] = False,
    preset: PresetOption = "smoke",
    variant: VariantOption = "cpu",
    site: SiteOption = DEFAULT_SITE,
) -> None:
    """Write docs/tutorials/*.md for every tutorial, in English and in Chinese.

    Examples: harness docs --check; harness docs --measured --preset smoke
    """
    project = Project.find()
    tutorials = [load_tutorial(project, tutorial_id) for tutorial_id in tutorial_ids(project)]
    if measured:
        _write_measured(project, tutorials, preset, variant, site)
        return
    table = page_file(project, STEM, "en")
    pages = {
        page_file(project, tutorial.id, language): render_page(tutorial, language, measured_time(table, tutorial.id))
        for tutorial in tutorials
        for language in LANGUAGES
    }
    kept = {page_file(project, STEM, language) for language in LANGUAGES}
    existing = set((project.root / "docs" / "tutorials").glob("*.md")) - kept
    write_or_check(pages, existing, check=check, fix="make docs")


def _write_measured(project: Project, tutorials: Sequence[Tutorial], preset: str, variant: str, site: str) -> None:
    """Judge the newest run of every tutorial and write the page about them.

    Raises:
        UserError: no tutorial has such a run.
    """
    wanted, kind = parse_preset(preset), parse_variant(variant)
    runs = {tutorial.id: latest_run(project, tutorial, kind, wanted) for tutorial in tutorials}
    found = {name: run for name, run in runs.items() if run is not None and has_ended(run)}
    if not found:
        raise UserError(
            "no tutorial has such a run that has ended",
            where=str(project.runs),
            fix=f"harness submit --variant {kind} --preset {wanted}",
        )
    entries = dict(zip(found, judge(project, list(found.values())), strict=True))
    rows = [_measured(project, one, entries[one.id], found[one.id], site) for one in tutorials if one.id in found]
    devices = sorted({row.verdict.run.device for row in rows if row.verdict.run.device})
    cores = "" if kind == "cuda" else f"{os.cpu_count()} cores, load {os.getloadavg()[2]:.0f} (15 minutes), "
    pages = measured_pages(
        rows,
        [name for name in runs if name not in found],
        preset=wanted,
        variant=kind,
        machine=cores + ", ".join(devices),
        day=datetime.now(tz=timezone.utc).date(),
    )
    for language, text in pages.items():
        path = page_file(project, STEM, language)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        typer.echo(f"wrote {path.relative_to(project.root)}")


def _measured(project: Project, tutorial: Tutorial, entry: ReportEntry, run: RunPaths, site: str) -> Measured:
    image = project_catalog(project, site).find(
        image_name(tutorial.stem, parse_variant(entry.verdict.run.variant or "")), entry.verdict.run.image_sha256 or ""
    )
    return Measured(
        tutorial,
        entry.verdict,
        entry.evidence.result,
        image_bytes=image.bytes if image else None,
        layer_bytes=image.own_bytes if image else None,
        seconds=_job_seconds(entry, run),
    )


def _job_seconds(entry: ReportEntry, run: RunPaths) -> float | None:
    """From the job script's first line to its last."""
    began = entry.evidence.fact("job_started_at")
    try:
        return run.exit_code.stat().st_mtime - float(began or "")
    except (FileNotFoundError, ValueError):
        return None
