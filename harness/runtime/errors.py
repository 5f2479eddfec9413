"""The errors a program reports to its user in one line, without a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

EXIT_USER_ERROR = 2


class ProgramError(Exception):
    """Something the person who started the program can mend: a file, an argument, the machine asked for."""


class DataError(ProgramError):
    """A data file that is there but cannot be used. The message names the file."""


class ModelError(ProgramError):
    """A model that is not there, is damaged, or is another one. The message names the folder or file."""


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
    """Run ``main``; a :class:`ProgramError` becomes one line on stderr and exit status 2, all else passes through.

    A rank of several ends at once when ``main`` has ended: the threads of gloo and NCCL do not always survive the
    interpreter's tidying up, and would turn a success into an abort (seen in a quarter of the runs of gloo).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _run_rank(main)
    try:
        main()
    except ProgramError as error:
        _print_error(error)
        raise SystemExit(EXIT_USER_ERROR) from None
    except Terminated as stop:
        _print_error(stop)
        raise


def _run_rank(main: Callable[[], None]) -> NoReturn:
    status = 0
    try:
        main()
    except ProgramError as error:
        _print_error(error)
        status = EXIT_USER_ERROR
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop, Terminated):
            _print_error(stop)
    except BaseException:  # noqa: BLE001 - the last frame of the process: it says what happened and ends
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _print_error(error: BaseException) -> None:
    rank = os.environ.get("RANK", "0")
    origin = "error" if rank == "0" else f"rank {rank}: error"
    print(f"{origin}: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201 - the program's last word
