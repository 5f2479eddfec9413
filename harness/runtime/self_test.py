"""Do the programs of an image load, and explain themselves? What an image's own test asks.

    python -m harness.runtime.self_test PROGRAM...

Runs each with ``--help``, all in one process: what they import together, often most of the seconds, is loaded once.
Exit code 1 after the first program that does not end well; why, is on the standard error.
"""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
from collections.abc import Sequence


def complaint(program: str) -> str | None:
    """What is wrong with a program, run as a script with ``--help``; None where it printed something and ended well.

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
            return f"{program} --help ended with {end.code}"
    return None if printed.getvalue().strip() else f"{program} --help printed nothing"


def first_complaint(programs: Sequence[str]) -> str | None:
    """Of several programs, as a line for people; None where all is well."""
    found = (complaint(program) for program in programs)
    return next((f"error: {text}" for text in found if text), None)


if __name__ == "__main__":
    sys.exit(first_complaint(sys.argv[1:]))
