"""Progress for people: a live line on a terminal, plain milestones in a pipe."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import rich.console
import rich.markup
from rich.table import Table

from harness.image.process import LineCallback

# Of a build's output, a pipe gets only what starts or ends something; the log file has the rest.
MILESTONE = re.compile(
    r"(?P<name>\S+: )(?:INFO: +)?"
    r"(?P<event>Starting build|Running post scriptlet|Running testscript|Creating SIF file|Build complete"
    r"|Compiling, .*"
    r"|up to date|published.*|removing a .*|waiting.*"
    r"|Step \d+/\d+ .*|asking .*|no: .*|fetching .*|giving up.*|bootstrapping .*|note: .*)"
)

PIPE_WIDTH = 1000


def milestone(line: str) -> str | None:
    """What a person wants to know of a line of a build's output; None for most lines."""
    match = MILESTONE.match(line)
    return match["name"] + match["event"] if match else None


def console() -> rich.console.Console:
    """Standard error, for everything that is not the command's result."""
    return rich.console.Console(stderr=True, highlight=False)


def print_table(table: Table) -> None:
    """A table as the result of a command: as wide as the terminal; in a pipe as wide as its cells, for grep and cut."""
    screen = rich.console.Console(highlight=False)
    if not screen.is_terminal:
        screen = rich.console.Console(highlight=False, width=PIPE_WIDTH)
    screen.print(table)


@contextmanager
def progress(title: str) -> Iterator[LineCallback]:
    """A callback for lines of long work: on a terminal a spinner with the last one, in a pipe the milestones."""
    screen = console()
    started = time.monotonic()
    if not screen.is_terminal:

        def plain(line: str) -> None:
            if event := milestone(line):
                screen.print(f"[{time.monotonic() - started:5.0f} s] {event}", markup=False, soft_wrap=True)

        yield plain
        return
    with screen.status(title) as status:

        def live(line: str) -> None:
            elapsed = time.monotonic() - started
            text = line.strip()[: max(20, screen.width - 16)]
            status.update(f"{elapsed:4.0f} s  {rich.markup.escape(text)}")
            if event := milestone(line):
                screen.print(f"[{elapsed:5.0f} s] {event}", markup=False)

        yield live
