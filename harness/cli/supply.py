"""models and data: list, fetch, verify what tutorials need of a site."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from harness.cli.console import console, print_table
from harness.cli.options import SiteOption
from harness.errors import HarnessError, UserError
from harness.mirrors import probe_mirrors
from harness.project import Project
from harness.run.needs import Kind, how_to_get, is_got_by_hand, look
from harness.runtime.hub.fetch import PROTOCOLS, Hub, Protocol, Watcher, hubs_in_order
from harness.runtime.hub.progress import plain_watcher
from harness.site import DEFAULT_SITE, Site, load_site
from harness.supply.obtain import obtain
from harness.supply.verify import verify
from harness.supply.wishes import Wish, find_wishes, root_of, wishes

NamesArgument = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="As `list` shows them.")]
TutorialOption = Annotated[list[str] | None, typer.Option("--tutorial", "-t", help="What this tutorial needs.")]
AllOption = Annotated[bool, typer.Option("--all", help="What all tutorials need.")]
FromOption = Annotated[str | None, typer.Option("--from", help="Only this kind of hub: huggingface or modelscope.")]
AgainOption = Annotated[bool, typer.Option("--again", help="Check what is there, and ask the hub for what is new.")]


def register(commands: typer.Typer) -> None:
    """Add this family's commands."""
    commands.add_typer(family("models"), name="models")
    commands.add_typer(family("data"), name="data")


def family(kind: Kind) -> typer.Typer:
    """The commands for models, or for data sets."""
    noun = "models" if kind == "models" else "data sets"
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=f"The {noun} that tutorials need of a site.")

    def list_command(site: SiteOption = DEFAULT_SITE) -> None:
        _list(kind, site)

    def fetch_command(
        names: NamesArgument = None,
        tutorial: TutorialOption = None,
        everything: AllOption = False,
        only: FromOption = None,
        again: AgainOption = False,
        site: SiteOption = DEFAULT_SITE,
    ) -> None:
        chosen = _chosen(kind, names, tutorial, everything=everything)
        _fetch(kind, site, chosen, only, again=again, all_that_can=everything)

    def verify_command(names: NamesArgument = None, site: SiteOption = DEFAULT_SITE) -> None:
        _verify(kind, site, _chosen(kind, names, None, everything=not names))

    list_command.__doc__ = f"Show the {noun}: who needs them, and which the site holds."
    fetch_command.__doc__ = (
        f"Fetch {noun} to the site's storage: mirrors in order, going on after an interruption, checked, whole or not "
        f"at all.\n\nExamples: harness {kind} fetch --tutorial 4; harness {kind} fetch NAME --from modelscope"
    )
    verify_command.__doc__ = f"Read {noun} again and compare them with their checksums. Exit code 1: one is damaged."
    app.command("list")(list_command)
    app.command("fetch")(fetch_command)
    app.command("verify")(verify_command)
    return app


def _chosen(kind: Kind, names: list[str] | None, tutorials: list[str] | None, *, everything: bool) -> list[Wish]:
    project = Project.find()
    if not names and not tutorials and not everything:
        raise UserError(f"which {kind}?", fix=f"name some (harness {kind} list), --tutorial NAME, or --all")
    by_tutorial = wishes(project, kind, tutorials or []) if tutorials or everything else []
    return [*find_wishes(wishes(project, kind), names or []), *by_tutorial]


def _list(kind: Kind, site_name: str) -> None:
    project = Project.find()
    site = load_site(project, site_name)
    try:
        root: Path | None = root_of(project, site, kind, os.environ)
    except UserError as error:
        typer.echo(f"note: {error}", err=True)
        root = None
    table = Table("name", "here", "needed by", box=None)
    for wish in wishes(project, kind):
        missing = look(kind, wish.wanted, root)
        folder = next((name for name in wish.wanted.folders if root and (root / name).is_dir()), "")
        state = folder if missing is None else ("incomplete" if missing.incomplete else "no")
        table.add_row(wish.key, state, wish.said_users())
    print_table(table)


def _fetch(
    kind: Kind, site_name: str, chosen: list[Wish], only: str | None, *, again: bool, all_that_can: bool
) -> None:
    """``all_that_can``: what must be got by hand is no failure."""
    project = Project.find()
    site = load_site(project, site_name)
    root = root_of(project, site, kind, os.environ)
    brought: list[str] = []
    failed: list[HarnessError] = []
    with _watcher() as watcher:
        hubs = _hubs(site, only, watcher)
        for wish in chosen:
            if all_that_can and is_got_by_hand(wish.wanted) and look(kind, wish.wanted, root) is not None:
                console().print(f"note: {wish.key}: {how_to_get(kind, wish.wanted)}", markup=False, soft_wrap=True)
                continue
            try:
                brought.append(f"{wish.key}: {obtain(wish, root, hubs, watcher, again=again)}")
            except HarnessError as error:
                if len(chosen) == 1:
                    raise
                console().print(f"error: {error}", markup=False, soft_wrap=True)
                failed.append(error)
    for line in brought:
        typer.echo(line)
    if failed:
        raise HarnessError(f"{len(failed)} of {len(chosen)} could not be fetched", fix="the lines above say why")


def _hubs(site: Site, only: str | None, watcher: Watcher) -> list[Hub]:
    """The hubs to be asked, without the mirrors that do not answer."""
    protocol: Protocol | None = next((known for known in PROTOCOLS if known == only), None)
    if only and protocol is None:
        raise UserError(f"unknown hub '{only}'", fix=f"valid: {', '.join(PROTOCOLS)}")
    answers = probe_mirrors({kind: getattr(site.mirrors, kind) for kind in PROTOCOLS})
    for answer in answers:
        if answer.latency_s is None:
            watcher.say(f"{answer.address}: passed over: {answer.problem}")
    alive: dict[Protocol, list[str]] = {
        known: [answer.address for answer in answers if answer.kind == known and answer.latency_s is not None]
        for known in PROTOCOLS
    }
    return hubs_in_order(alive, os.environ, protocol)


def _verify(kind: Kind, site_name: str, chosen: list[Wish]) -> None:
    project = Project.find()
    root = root_of(project, load_site(project, site_name), kind, os.environ)
    bad = 0
    for wish in chosen:
        found = verify(wish, root)
        if found.folder is None:
            typer.echo(f"none {wish.key}: is not below {root}")
            continue
        again = "" if is_got_by_hand(wish.wanted) else " --again"
        for problem in found.problems:
            typer.echo(f"BAD  {wish.key}: {problem}; {how_to_get(kind, wish.wanted)}{again}")
        bad += bool(found.problems)
        if not found.problems:
            compared = f"{found.checked} files compared" if found.checked else "whole; it has no checksums to compare"
            typer.echo(f"ok   {wish.key}: {found.folder}: {compared}")
    if bad:
        raise typer.Exit(1)


@contextmanager
def _watcher() -> Iterator[Watcher]:
    """On a terminal a bar under the lines, in a pipe lines alone."""
    screen = console()
    if not screen.is_terminal:
        yield plain_watcher(lambda line: screen.print(line, markup=False, soft_wrap=True))
        return
    columns = (
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, transient=True) as progress:
        task = progress.add_task("", total=0)
        expected = 0

        def more(size: int) -> None:
            nonlocal expected
            expected += size
            progress.update(task, total=expected)

        yield Watcher(
            lambda line: progress.console.print(line, markup=False, soft_wrap=True),
            more,
            lambda size: progress.advance(task, size),
        )
