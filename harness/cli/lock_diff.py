"""lock diff: what differs between two locks or two images, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from harness.cli.contents import find_image
from harness.cli.options import SiteOption, VariantOption
from harness.errors import HarnessError, UserError
from harness.lock.diff import Contents, GroupDifference, compare
from harness.lock.sides import Pair, pairs
from harness.project import Project
from harness.run.campaign import project_catalog
from harness.site import DEFAULT_SITE

_STYLES = {"+": "green", "-": "red", "~": "yellow"}
_NOTHING = Contents({})


def lock_diff(
    sides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[A [B]]", help="Lock files, images (or tutorials), or revisions; B: the working tree."),
    ] = None,
    variant: VariantOption = "cpu",
    site: SiteOption = DEFAULT_SITE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what differs between two locks, images or revisions. Exit code 0: nothing; 1: something; 2: a mistake.

    Examples: harness lock diff; harness lock diff HEAD~3; harness lock diff old.sif new.sif
    """
    project = Project.find()

    def image(name: str) -> Path | None:
        try:
            return find_image(project, project_catalog(project, site), name, variant)
        except UserError:
            return None

    try:
        found = pairs(project, sides or [], image)
    except HarnessError as error:  # a damaged image, one of somebody else: nothing was compared, so it is no difference
        raise UserError(error.what, where=error.where, fix=error.fix) from error
    differing = [(pair, groups) for pair in found if (groups := compare(pair.one or _NOTHING, pair.other or _NOTHING))]
    if as_json:
        shown = {pair.title: {name: group.as_json() for name, group in groups.items()} for pair, groups in differing}
        typer.echo(json.dumps({"same": not differing, "differences": shown}, ensure_ascii=False, indent=1))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for pair, groups in differing:
            _show(console, pair, groups)
        if not differing:
            typer.echo(f"no difference ({len(found)} compared)")
    if differing:
        raise typer.Exit(1)


def _show(console: Console, pair: Pair, groups: dict[str, GroupDifference]) -> None:
    console.print(Text(pair.title, style="bold"))
    if pair.one is None or pair.other is None:
        sizes = ", ".join(f"{name} {counts(group)}" for name, group in groups.items())
        console.print(f"  the whole lock is {'new' if pair.one is None else 'gone'}: {sizes}")
        return
    width = max(len(name) for group in groups.values() for _, name, _ in group.lines())
    for name, group in groups.items():
        console.print(Text(f"  {name}: {counts(group)}"))
        for sign, package, versions in group.lines():
            console.print(Text(f"    {sign} {package:<{width}}  {versions}", style=_STYLES[sign]))


def counts(group: GroupDifference) -> str:
    """Such as ``2 changed, 1 added``."""
    named = (("changed", group.changed), ("added", group.added), ("removed", group.removed))
    return ", ".join(f"{len(values)} {word}" for word, values in named if values)
