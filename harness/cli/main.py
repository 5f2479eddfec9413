"""``harness``: assembling the commands, and errors into one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import typer

from harness import __version__
from harness.errors import CommandError, HarnessError

DEBUG_VARIABLE = "HARNESS_DEBUG"

app = typer.Typer(
    name="harness",
    help="AI tutorials of a computing centre as tested Apptainer images, batch jobs and a pytest harness.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add_commands(first_word: str) -> None:
    """Add the families of commands; for ``build``, which mostly finds nothing to do, no other family is imported."""
    if first_word == "build":
        from harness.cli import build

        build.register(app)
        return
    from harness.cli import (
        build,
        catalog,
        cluster,
        conda,
        contents,
        demo,
        doctor,
        explain,
        history,
        images,
        jobs,
        keys,
        lock,
        pages,
        roof,
        runs,
        sessions,
    )

    app.add_typer(catalog.app, name="catalog")
    app.add_typer(cluster.app, name="cluster")
    app.add_typer(lock.app, name="lock")
    for family in (
        images,
        build,
        explain,
        contents,
        jobs,
        conda,
        pages,
        runs,
        sessions,
        history,
        roof,
        keys,
        doctor,
        demo,
    ):
        family.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"harness {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and end.", callback=_version, is_eager=True
    ),
) -> None:
    """Tutorials as images, jobs and verdicts. Start with: harness demo"""


def _terminate(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    """Entry point. Exit code 0: as asked; 1: a failure was found; 2: a mistake in what was asked; 130: interrupted."""
    signal.signal(signal.SIGTERM, _terminate)  # a batch system's or an administrator's kill cleans up as Ctrl-C does
    _add_commands(sys.argv[1] if len(sys.argv) > 1 else "")
    try:
        app()
    except HarnessError as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        if isinstance(error, CommandError) and error.output:
            typer.echo(error.output, err=True)
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
