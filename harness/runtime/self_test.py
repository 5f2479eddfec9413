"""Do the programs of an image load, and explain themselves? What an image's own test asks.

    python -m harness.runtime.self_test PROGRAM...

Runs each with ``--help``, all in one process: what they import together, often most of the seconds, is loaded once.
Exit code 1 after the first program that does not end well; what it said is on the standard error.
"""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
from collections.abc import Sequence


def explains_itself(program: str) -> bool:
    """Whether a program, run as a script with ``--help``, ends with exit code 0 and has printed something.

    Raises:
        Exception: whatever the program raises.
    """
    sys.argv = [program, "--help"]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        if end.code not in (0, None):
            return False
    return bool(printed.getvalue().strip())


def problem(programs: Sequence[str]) -> str | None:
    """The first thing that is wrong with them, in one line; None where all is well."""
    return next(
        (f"error: {program} does not answer --help" for program in programs if not explains_itself(program)), None
    )


if __name__ == "__main__":
    sys.exit(problem(sys.argv[1:]))
