"""The errors a program reports to its user in one line, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

EXIT_USER_ERROR = 2


class ProgramError(Exception):
    """Something the person who started the program can mend: a file, an argument, the machine asked for."""


class DataError(ProgramError):
    """A data file that is there but cannot be used. The message names the file."""


class DeviceError(ProgramError):
    """The device asked for is not there."""


class Terminated(SystemExit):
    """The program was asked to stop (SIGTERM: time limit, scancel, node shutdown). Exit status 128 + 15.

    Not an ``Exception``: library code that catches those must not keep a stopped program alive.
    """

    def __init__(self, signal_name: str, exit_status: int) -> None:
        super().__init__(exit_status)
        self.signal_name = signal_name

    def __str__(self) -> str:
        return f"stopped by {self.signal_name}"


def run_program(main: Callable[[], None]) -> None:
    """Run ``main``; a :class:`ProgramError` becomes one line on stderr and exit status 2, all else passes through."""
    try:
        main()
    except ProgramError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201 - the program's last word
        raise SystemExit(EXIT_USER_ERROR) from None
    except Terminated as stop:
        print(f"error: {stop}", file=sys.stderr)  # noqa: T201
        raise
