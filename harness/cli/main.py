"""``harness``: assembling the commands, and errors into one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import typer

from harness import __version__
from harness.cli.commands import CommandTable
from harness.errors import CommandError, HarnessError

DEBUG_VARIABLE = "HARNESS_DEBUG"

app = typer.Typer(
    name="harness",
    cls=CommandTable,
    help="AI tutorials of a computing centre as tested Apptainer images, batch jobs and a pytest harness.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
