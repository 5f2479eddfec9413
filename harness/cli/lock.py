"""lock: resolve what stacks are made of, check that, and show what differs."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness.cli.console import progress
from harness.cli.lock_diff import lock_diff
from harness.cli.options import SiteOption
from harness.errors import HarnessError
from harness.files import write_whole
from harness.lock.inputs import lock_drift
from harness.lock.resolve import Resolver, same_resolution
from harness.project import VARIANTS, Project, Variant, parse_variant
from harness.site import DEFAULT_SITE, load_site
from harness.stack import Stack, load_stack
from harness.stack_lock import StackLock, lock_file, read_stack_lock, summary, write_lock_text

DEFAULT_COMMAND = "stacks"


class _StacksUnlessNamed(TyperGroup):
    """``harness lock pytorch``: what is no command of this group is a stack."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, *self.get_help_option_names(ctx)):
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_StacksUnlessNamed,
    no_args_is_help=False,
    help="Resolve what stacks are made of: harness lock [STACK]... Compare: harness lock diff.",
)
app.command("diff")(lock_diff)


def register(commands: typer.Typer) -> None:
    """Add this family as one command."""
    commands.add_typer(app, name="lock")


@app.command(DEFAULT_COMMAND)
def lock_stacks(
    stacks: Annotated[list[str] | None, typer.Argument(metavar="[STACK]...", help="None: all of them.")] = None,
    variant: Annotated[str | None, typer.Option("--variant", "-v", help="cpu or cuda; without: both.")] = None,
    site: SiteOption = DEFAULT_SITE,
    check: Annotated[
        bool, typer.Option("--check", help="Resolve nothing; exit 1 where a lock is not of today's inputs.")
    ] = False,
    upgrade: Annotated[bool, typer.Option("--upgrade", help="Newest versions, also where locked ones fit.")] = False,
) -> None:
    """Resolve base image, apt packages and Python packages of stacks, and write their lock files.

    Examples: harness lock pytorch --variant cpu; harness lock --check
    """
    project = Project.find()
    wanted = [
        (load_stack(project, name, locked=check), one) for name in stacks or _all_stacks(project) for one in VARIANTS
    ]
    chosen = parse_variant(variant) if variant else None
    wanted = [(stack, one) for stack, one in wanted if one in stack.variants and chosen in (None, one)]
    if check:
        _check(project, wanted)
        return
    with progress("locking") as report:
        resolver = Resolver(project, load_site(project, site), project.cache, report, upgrade)
        for stack, one in wanted:
            before = read_stack_lock(project, stack.name, one)
            _write(project, resolver.resolve(stack, one, before), before)


def _all_stacks(project: Project) -> list[str]:
    return sorted(path.parent.name for path in project.stacks.glob("*/stack.toml"))


def _write(project: Project, lock: StackLock, before: StackLock | None) -> None:
    path = lock_file(project, lock.stack, lock.variant)
    shown = path.relative_to(project.root)
    if before is not None and same_resolution(before, lock):
        typer.echo(f"{shown}: unchanged")
    else:
        write_whole(path, write_lock_text(lock))
        typer.echo(f"{shown}: {summary(lock)}")
    for part, why in lock.unresolved.items():
        typer.echo(f"warning: {shown}: {part} is not resolved: {why}", err=True)


def _check(project: Project, wanted: list[tuple[Stack, Variant]]) -> None:
    wrong = 0
    for stack, variant in wanted:
        lock = read_stack_lock(project, stack.name, variant)
        lines = ["was never locked"] if lock is None else lock_drift(project, stack, lock)
        for line in lines:
            wrong += 1
            typer.echo(f"{lock_file(project, stack.name, variant).relative_to(project.root)}: {line}", err=True)
    if wrong:
        raise HarnessError("locks are not of today's inputs", fix="make lock, and commit what it writes")
