"""How a set of builds goes: a live table on a terminal, plain lines in a pipe; and how it went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from harness.cli.console import console, milestone
from harness.factory.graph import Graph, State, Task

_MARKS = {
    State.WAITING: "·",
    State.RUNNING: "…",
    State.BUILT: "✓",
    State.UP_TO_DATE: "=",
    State.FAILED: "✗",
    State.NOT_TRIED: "-",
}


class SetView(Protocol):
    """Told of everything that happens to a graph."""

    def on_line(self, task: Task, line: str) -> None:
        """A task said something."""

    def on_change(self, task: Task) -> None:
        """A task's state, or the time it takes, changed."""


@contextmanager
def set_view(graph: Graph) -> Iterator[SetView]:
    """The view that fits standard error."""
    screen = console()
    if not screen.is_terminal:
        yield _Plain(graph, screen)
        return
    with Live(console=screen, auto_refresh=False, transient=True) as live:
        yield _Table(graph, live)


def summary(graph: Graph) -> None:
    """Print how every task ended, a line each, on standard output: whole lines, for people and for grep."""
    outcomes = graph.outcomes.values()
    width = max((len(outcome.task.name) for outcome in outcomes), default=0)
    states = max(len(state.value) for state in State)
    for outcome in outcomes:
        seconds = f"{outcome.seconds:.0f} s" if outcome.seconds else ""
        words = outcome.reason
        if outcome.state is State.FAILED and outcome.log is not None:
            words = f"{words} ({outcome.log})"
        name, state = outcome.task.name.ljust(width), outcome.state.value.ljust(states)
        typer.echo(f"{_MARKS[outcome.state]} {name}  {state}  {seconds:>6}  {words}".rstrip())


class _Plain:
    def __init__(self, graph: Graph, screen: Console) -> None:
        self._graph, self._screen, self._started = graph, screen, time.monotonic()
        self._shown: dict[str, State] = {}

    def on_line(self, task: Task, line: str) -> None:
        # A task writes for a pipe as well: its milestones, each after the seconds since its own start.
        text = line.partition("] ")[2] if line.startswith("[") else ""
        if event := milestone(text):
            self._say(event)

    def on_change(self, task: Task) -> None:
        outcome = self._graph.outcomes[task.name]
        if self._shown.get(task.name) is not outcome.state:
            self._shown[task.name] = outcome.state
            self._say(": ".join(filter(None, [task.name, outcome.state.value, outcome.reason])))

    def _say(self, text: str) -> None:
        self._screen.print(f"[{time.monotonic() - self._started:5.0f} s] {text}", markup=False, soft_wrap=True)


class _Table:
    def __init__(self, graph: Graph, live: Live) -> None:
        self._graph, self._live = graph, live
        self._last: dict[str, str] = {}

    def on_line(self, task: Task, line: str) -> None:
        self._last[task.name] = line.partition("] ")[2] if line.startswith("[") else line
        self._show()

    def on_change(self, task: Task) -> None:
        self._show()

    def _show(self) -> None:
        table = Table(box=None, pad_edge=False, show_header=False)
        for outcome in self._graph.outcomes.values():
            seconds = f"{outcome.seconds:.0f} s" if outcome.seconds else ""
            words = outcome.reason or (self._last.get(outcome.task.name, "") if outcome.state is State.RUNNING else "")
            row = (_MARKS[outcome.state], outcome.task.name, outcome.state.value, seconds, words[:80])
            table.add_row(*map(escape, row))
        self._live.update(table, refresh=True)
