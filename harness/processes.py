"""Naming a process so that it can be found again later, from another process, and never confused with another.

A pid alone is not a name: pids are reused, and they start afresh when the machine restarts. A pid with its start time
(clock ticks since boot, field 22 of ``/proc/<pid>/stat``) and the boot's id is one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessName:
    """One process of one boot of one machine.

    Attributes:
        pid: process id.
        start_ticks: when it started, in clock ticks since boot.
        boot_id: the kernel's id of that boot.
    """

    pid: int
    start_ticks: int
    boot_id: str

    def is_alive(self) -> bool:
        """Whether this very process still runs. A zombie, which only waits for its parent to look, does not."""
        return self.boot_id == boot_id() and _running_since(self.pid) == self.start_ticks

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process, never to another one that got its pid; a dead one is no error.

        Raises:
            PermissionError: it belongs to another user.
        """
        with contextlib.suppress(ProcessLookupError), _pinned(self.pid) as handle:
            if not self.is_alive():
                return
            if handle is None:
                os.kill(self.pid, number)
            else:
                signal.pidfd_send_signal(handle, number)


@contextlib.contextmanager
def _pinned(pid: int) -> Iterator[int | None]:
    """A handle that keeps the pid from passing to another process between a check and a signal.

    None on kernels before 5.3 (Rocky 8) and in sandboxes without pidfd: then the check alone must do.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (AttributeError, OSError):
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def boot_id() -> str:
    """The kernel's id of the present boot."""
    return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def name_process(pid: int) -> ProcessName | None:
    """The full name of a running process, or None when there is none of that pid."""
    ticks = _running_since(pid)
    return None if ticks is None else ProcessName(pid, ticks, boot_id())


def descendants(roots: Iterable[int]) -> list[ProcessName]:
    """Every running process below the given pids, without them."""
    children: dict[int, list[int]] = {}
    for pid in _all_pids():
        stat = _stat_fields(pid)
        if stat is not None:
            children.setdefault(int(stat[1]), []).append(pid)
    found: list[int] = []
    queue = list(roots)
    while queue:
        below = children.get(queue.pop(), [])
        found.extend(below)
        queue.extend(below)
    return [name for pid in found if (name := name_process(pid)) is not None]


def processes_with_environment(matches: Callable[[dict[bytes, bytes]], bool]) -> list[ProcessName]:
    """Running processes whose start-up environment ``matches``.

    Processes of other users, whose environment may not be read, are left out.
    """
    found = []
    for pid in _all_pids():
        name = name_process(pid)
        environment = _environment(pid)
        if name is not None and environment and matches(environment):
            found.append(name)
    return found


def ancestors_and_self() -> set[int]:
    """The pids of this process and of all above it: what a clean-up must never kill."""
    pid = os.getpid()
    found = {pid}
    while (stat := _stat_fields(pid)) is not None and int(stat[1]) > 0:
        pid = int(stat[1])
        found.add(pid)
    return found


def wait_for_end(names: Iterable[ProcessName], timeout_s: float) -> list[ProcessName]:
    """Wait until all have ended, at most ``timeout_s`` seconds; those still alive come back."""
    remaining = list(names)
    deadline = time.monotonic() + timeout_s
    pause = 0.005
    while True:
        _reap(remaining)
        remaining = [name for name in remaining if name.is_alive()]
        if not remaining or time.monotonic() >= deadline:
            return remaining
        time.sleep(pause)
        pause = min(pause * 2, 0.1)


def _reap(names: Iterable[ProcessName]) -> None:
    """Collect those that are our own children, so that none stays a zombie of a long-lived caller."""
    for name in names:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(name.pid, os.WNOHANG)


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def _running_since(pid: int) -> int | None:
    """Start time of a running process in ticks since boot; None for a dead one or a zombie."""
    stat = _stat_fields(pid)
    return None if stat is None or stat[0] in ("Z", "X") else int(stat[19])


def _stat_fields(pid: int) -> list[str] | None:
    """Fields 3 onwards of ``/proc/<pid>/stat``: state first, then the parent's pid."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in brackets and may itself hold blanks and brackets.
    return text.rpartition(")")[2].split()


def _environment(pid: int) -> dict[bytes, bytes]:
    try:
        block = (PROC / str(pid) / "environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return {}
    pairs = (entry.partition(b"=") for entry in block.split(b"\0") if entry)
    return {key: value for key, _, value in pairs}
