"""``harness``: assembling the commands, and errors into one line and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

import typer

from harness import __version__
from harness.cli.commands import CommandTable
from harness.errors import CommandError, HarnessError

DEBUG_VARIABLE = "HARNESS_DEBUG"

_LARGER = "free some, or set HARNESS_CACHE and CATALOG to larger disks"
_ALLOWED = "ask who keeps it, or set HARNESS_CACHE and CATALOG to folders that you may write"
_OF_THE_MACHINE = {
    errno.ENOSPC: ("no space left", _LARGER),
    errno.EDQUOT: ("your disk quota is used up", _LARGER),
    errno.EROFS: ("its file system is read-only", _ALLOWED),
    errno.EACCES: ("not allowed", _ALLOWED),
    errno.EPERM: ("not allowed", _ALLOWED),
    errno.EIO: ("the disk does not read or write", "ask who keeps this machine; its system log says more"),
    errno.ESTALE: ("the file server forgot this file", "run it again"),
    errno.EMFILE: ("too many open files", "raise the limit: ulimit -n 65536"),
    errno.ENFILE: ("this machine has too many open files", "ask who keeps it"),
    errno.ENOMEM: ("no memory left", "end other programs, or run it with fewer --jobs"),
}
"""What a machine refuses, in words, and what to do. Any other OSError is a mistake of ours and keeps its traceback."""
_FULL_BYTES = 1 << 20

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


def explained(error: OSError) -> HarnessError | None:
    """The error for what the machine refuses: what, where, and what to do; None for a mistake of ours."""
    known = _OF_THE_MACHINE.get(error.errno or 0)
    if known is None:
        return None
    what, fix = known
    named = error.filename2 or error.filename
    where = os.fsdecode(named) if isinstance(named, (str, bytes)) else _fullest() if known[1] == _LARGER else None
    return HarnessError(what, where=where, fix=fix)


def _fullest() -> str | None:
    """Of the disks that a command writes to one that is full: a write that fails does not say to which file."""
    named = [os.environ.get(name) for name in ("HARNESS_CACHE", "CATALOG")]
    for folder in [*(Path(text) for text in named if text), Path.cwd(), Path(tempfile.gettempdir())]:
        try:
            room = os.statvfs(folder)
        except OSError:
            continue  # not made yet
        if room.f_bavail * room.f_frsize < _FULL_BYTES:
            return str(folder)
    return None


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
    except OSError as error:
        known = explained(error)
        if known is None or os.environ.get(DEBUG_VARIABLE):
            raise
        typer.echo(f"error: {known}", err=True)
        sys.exit(known.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
