"""What is to be built, in which order, and how it ended. Nothing here touches the world."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class State(enum.Enum):
    """Where a task stands."""

    WAITING = "waiting"
    RUNNING = "running"
    BUILT = "built"
    UP_TO_DATE = "up to date"
    FAILED = "failed"
    NOT_TRIED = "not tried"
    """Something it needs failed."""


@dataclass(frozen=True)
class Task:
    """One ``harness`` command of the set.

    Attributes:
        name: of what it makes: ``pytorch.cpu``, ``tutorial6``.
        arguments: of the ``harness`` command.
        needs: names of the tasks that must have succeeded before.
    """

    name: str
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


@dataclass
class Outcome:
    """How a task stands, and in the end how it ended.

    Attributes:
        seconds: wall time of the task itself.
        reason: of a failure, one line.
        log: everything the task said.
    """

    task: Task
    state: State = State.WAITING
    seconds: float = 0.0
    reason: str = ""
    log: Path | None = None


class Graph:
    """Tasks and their states. Needs that are no task of the graph are taken as met.

    Args:
        tasks: in the order in which they are to be started where nothing else decides.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.outcomes = {task.name: Outcome(task) for task in tasks}

    @property
    def is_done(self) -> bool:
        return all(o.state not in (State.WAITING, State.RUNNING) for o in self.outcomes.values())

    @property
    def has_failed(self) -> bool:
        return any(o.state in (State.FAILED, State.NOT_TRIED) for o in self.outcomes.values())

    def ready(self) -> list[Task]:
        """Tasks that wait for nothing but their turn."""
        return [
            outcome.task
            for outcome in self.outcomes.values()
            if outcome.state is State.WAITING
            and all(self.outcomes[n].state in _MET for n in outcome.task.needs if n in self.outcomes)
        ]

    def start(self, task: Task, log: Path) -> None:
        """Note that a task runs now."""
        outcome = self.outcomes[task.name]
        outcome.state, outcome.log = State.RUNNING, log

    def finish(self, task: Task, state: State, *, seconds: float = 0.0, reason: str = "") -> None:
        """Note how a task ended; what needs a failed one is not tried."""
        outcome = self.outcomes[task.name]
        outcome.state, outcome.seconds, outcome.reason = state, seconds, reason
        if state in (State.FAILED, State.NOT_TRIED):
            for other in self.outcomes.values():
                if other.state is State.WAITING and task.name in other.task.needs:
                    self.finish(other.task, State.NOT_TRIED, reason=f"it needs {task.name}")


_MET = (State.BUILT, State.UP_TO_DATE)
