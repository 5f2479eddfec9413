"""cache: what builds keep for the next one, what it takes, and removing what is not used any more."""

from __future__ import annotations

import datetime
import json
import re
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from harness.catalog.garbage import linked_files
from harness.cli.build import remembered_digests
from harness.cli.console import print_table
from harness.cli.options import SiteOption
from harness.definition.tutorial_image import Definitions
from harness.errors import HarnessError, UserError
from harness.image.cache_entries import CacheEntry, cache_entries
from harness.image.cache_gc import trim
from harness.image.cache_needs import find_needs
from harness.image.contents import tool_versions
from harness.image.engine import find_engine
from harness.image.stages import keyed_tools
from harness.project import Project
from harness.run.images import project_catalog
from harness.site import DEFAULT_SITE

KEPT_DAYS = 7.0
_DAY_S = 86_400.0
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

app = typer.Typer(help="What builds keep for the next one: list it, remove what is old.", no_args_is_help=True)


def register(commands: typer.Typer) -> None:
    """Add this family's commands."""
    commands.add_typer(app, name="cache")


@app.command("list")
def list_entries(
    site: SiteOption = DEFAULT_SITE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the cache: size, when a build last used it, and which stacks of this checkout need it.

    Example: harness cache list
    """
    entries = _entries(Project.find(), site)
    if as_json:
        typer.echo(json.dumps([{**asdict(entry), "path": str(entry.path)} for entry in entries], indent=1))
        return
    table = Table("kind", "name", "MB", "last used", "needed by", box=None)
    for entry in sorted(entries, key=lambda entry: entry.used_at, reverse=True):
        if entry.kind == "log":
            continue
        used = datetime.datetime.fromtimestamp(entry.used_at).isoformat(" ", "minutes")
        needed = ", ".join(entry.needed_by) or "nothing here"
        why = "; ".join(text for text in (needed, entry.note) if text)
        table.add_row(entry.kind, _short(entry), f"{entry.bytes / 1e6:.1f}", used, why)
    print_table(table)
    logs = [entry.bytes for entry in entries if entry.kind == "log"]
    typer.echo(f"{len(logs)} logs, {sum(logs) / 1e6:.1f} MB")
    total = sum(entry.bytes for entry in entries)
    free = sum(entry.bytes for entry in entries if not entry.needed_by and not entry.stays)
    typer.echo(f"{total / 1e6:.1f} MB, {free / 1e6:.1f} MB of it needed by nothing here")


@app.command()
def gc(
    keep_days: Annotated[
        float, typer.Option("--keep-days", min=0, help="Keep what a build used within so many days.")
    ] = KEPT_DAYS,
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", metavar="20G", help="Remove more, the longest unused first, down to this size."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    site: SiteOption = DEFAULT_SITE,
) -> None:
    """Remove what killed builds left and what nothing of this checkout needs. What a running build uses stays.

    Examples: harness cache gc --dry-run; harness cache gc --keep-days 0; harness cache gc --max-size 20G
    """
    limit = None if max_size is None else parse_size(max_size)
    project = Project.find()
    entries = _entries(project, site)
    left = sum(entry.bytes for entry in entries)
    freed = 0
    try:
        for entry in trim(entries, time.time(), keep_s=keep_days * _DAY_S, max_bytes=limit, remove=not dry_run):
            freed += entry.bytes
            was = ", ".join(entry.needed_by) or entry.note
            typer.echo(f"{entry.path}  {entry.bytes / 1e6:.1f} MB{f'  {was}' if was else ''}")
    except PermissionError as error:
        raise HarnessError(
            "somebody else's", where=str(error.filename), fix="ask who keeps this cache to run this"
        ) from error
    left -= freed
    typer.echo(f"{freed / 1e6:.1f} MB {'would be ' if dry_run else ''}freed, {left / 1e6:.1f} MB left")
    if limit is not None and left > limit:
        typer.echo(f"not down to {max_size}: the rest is in use, or would have to be fetched again", err=True)


def parse_size(text: str) -> int:
    """``500M``, ``20G``, ``1.5T``: bytes, with decimal units.

    Raises:
        UserError: none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.strip().upper())
    if match is None:
        raise UserError(f"'{text}' is no size", fix="valid: 500M, 20G, 1.5T")
    return int(float(match[1]) * _UNITS[match[2]])


def _entries(project: Project, site: str) -> list[CacheEntry]:
    with remembered_digests(project) as digest:
        tools = keyed_tools(tool_versions(find_engine()))
        needs = find_needs(Definitions(project, digest), project.cache, tools)
    return cache_entries(project.cache, needs, linked_files(project_catalog(project, site)))


def _short(entry: CacheEntry) -> str:
    return entry.path.stem[:12] if entry.kind in ("stage", "blob") else entry.path.name
