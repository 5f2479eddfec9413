"""Running a graph's tasks as child processes of this one, some at a time."""

from __future__ import annotations

import codecs
import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from harness.factory.graph import Graph, State, Task

OnLine = Callable[[Task, str], None]
OnChange = Callable[[Task], None]

GRACE_S = 30.0
"""Seconds that a build gets to remove its temporary trees when it is told to end."""

_TICK_S = 1.0  # nothing waits for it: it only lets a display count seconds

_HARNESS = (sys.executable, "-m", "harness")


@dataclass
class _Running:
    task: Task
    process: subprocess.Popen[bytes]
    log: IO[str] | None
    started: float
    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))
    rest: str = ""
    last_error: str = ""


@dataclass(frozen=True)
class LocalRunner:
    """Runs tasks on this machine.

    Attributes:
        root: the checkout.
        logs: folder for ``<task>.log``.
        jobs: how many at a time.
        on_line: called with each line that a task says.
        on_change: called when a task starts, ends, or is passed over; and each second with the running ones.
    """

    root: Path
    logs: Path
    jobs: int
    on_line: OnLine
    on_change: OnChange

    def run(self, graph: Graph) -> None:
        """Run the whole graph. Whatever interrupts it (Ctrl-C, SIGTERM) ends all children, and waits for them."""
        self.logs.mkdir(parents=True, exist_ok=True)
        running: list[_Running] = []
        with selectors.DefaultSelector() as selector:
            try:
                while not graph.is_done:
                    for task in graph.ready()[: self.jobs - len(running)]:
                        running.append(self._start(graph, task))
                        selector.register(_stdout(running[-1]), selectors.EVENT_READ, running[-1])
                    for key, _ in selector.select(_TICK_S):
                        one: _Running = key.data
                        if self._read(one):
                            continue
                        selector.unregister(_stdout(one))
                        running.remove(one)
                        self._finish(graph, one)
                    for one in running:
                        graph.outcomes[one.task.name].seconds = time.monotonic() - one.started
                        self.on_change(one.task)
            finally:
                end_all([one.process for one in running])
                for one in running:
                    _close(one.log)

    def _start(self, graph: Graph, task: Task) -> _Running:
        log = self.logs / f"{task.name}.log"
        stream: IO[str] | None = None
        try:
            stream = log.open("w", encoding="utf-8")
        except OSError as error:
            self._without_log(task, log, error)
        process = subprocess.Popen(
            [*_HARNESS, *task.arguments],
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which then ends all of them
        )
        graph.start(task, log)
        self.on_change(task)
        return _Running(task, process, stream, time.monotonic())

    def _without_log(self, task: Task, log: Path, error: OSError) -> None:
        """A log that cannot be written (a full disk) is no reason to end the tasks of a set."""
        reason = (error.strerror or str(error)).lower()
        self.on_line(task, f"[ note] {task.name}: note: {log}: the log cannot be written: {reason}")

    def _read(self, one: _Running) -> bool:
        """Take in what a task says; False when it has closed its output."""
        chunk = os.read(_stdout(one).fileno(), 65536)
        *lines, one.rest = (one.rest + one.decoder.decode(chunk, final=not chunk)).split("\n")
        if not chunk and one.rest:
            lines.append(one.rest)
        self._write(one, lines)
        for line in lines:
            if line.startswith("error: "):
                one.last_error = line.removeprefix("error: ")
            self.on_line(one.task, line)
        return bool(chunk)

    def _write(self, one: _Running, lines: list[str]) -> None:
        if one.log is None:
            return
        try:
            one.log.writelines(line + "\n" for line in lines)
            one.log.flush()
        except OSError as error:
            self._without_log(one.task, Path(one.log.name), error)
            _close(one.log)
            one.log = None

    def _finish(self, graph: Graph, one: _Running) -> None:
        status = one.process.wait()
        _stdout(one).close()
        _close(one.log)
        seconds = time.monotonic() - one.started
        if status == 0:
            graph.finish(one.task, State.BUILT, seconds=seconds)
        else:
            reason = one.last_error or f"ended with status {status}"
            graph.finish(one.task, State.FAILED, seconds=seconds, reason=reason)
        self.on_change(one.task)


def end_all(processes: list[subprocess.Popen[bytes]], grace_s: float = GRACE_S) -> None:
    """End processes that lead their own groups: asked first, all together, then killed."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in processes:
        if process.poll() is None:
            _signal(process, signal.SIGKILL)
            process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _close(log: IO[str] | None) -> None:
    if log is not None:
        with contextlib.suppress(OSError):  # what could not be written was said when it was tried
            log.close()


def _stdout(one: _Running) -> IO[bytes]:
    assert one.process.stdout is not None
    return one.process.stdout


def tail_errors(log: Path) -> Iterator[str]:
    """Lines of a task's log that say what was wrong."""
    if log.is_file():
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("error: "):
                yield line.removeprefix("error: ")
