"""Start a program once per rank on this node and watch over the ranks.

    python -m harness.runtime.launch PROGRAM [OPTIONS]

How many ranks is the job's to say (``HARNESS_PROCESSES`` and ``HARNESS_NODES``, see ``environment.py``); where it says
nothing, or one, the program simply replaces this process. Each rank finds RANK, LOCAL_RANK, WORLD_SIZE and
LOCAL_WORLD_SIZE in its environment, as under torchrun. No port is chosen here: rank 0 binds one that is free and tells
the others (``harness.runtime.team``), so two jobs on a node cannot collide.

An AI platform speaks another dialect: it starts this on every node with RANK (of the node), WORLD_SIZE (nodes),
MASTER_ADDR and MASTER_PORT. Then ranks meet there (``harness.runtime.place``).

Where one rank fails, the others wait for it forever: they get a few seconds to notice, then they are stopped.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from harness.runtime import environment
from harness.runtime.errors import EXIT_USER_ERROR, ProgramError
from harness.runtime.place import place_of_this_node

NOTICE_S = 5  # for the other ranks to fail on their own when one has failed: they may know more about why
KILL_AFTER_S = 10  # between SIGTERM and SIGKILL
_PR_SET_PDEATHSIG = 1


class Ranks:
    """The processes of one node.

    Attributes:
        first_failure: (rank, exit status) of the first rank that did not end well, None so far.
    """

    def __init__(self) -> None:
        self.first_failure: tuple[int, int] | None = None
        self._living: dict[int, int] = {}
        self._is_stopping = False
        self._signals = iter((signal.SIGTERM, signal.SIGKILL))

    def listen(self) -> None:
        """Pass signals on; before the first rank starts, so that none is missed."""
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        signal.signal(signal.SIGINT, lambda *_: None)  # a terminal's Ctrl-C reached the ranks already
        signal.signal(signal.SIGALRM, self._on_alarm)

    def start(self, command: list[str], rank: int, variables: dict[str, str]) -> None:
        if self._is_stopping:
            return
        process = subprocess.Popen(command, env={**os.environ, **variables}, preexec_fn=die_with(os.getpid()))
        self._living[process.pid] = rank

    def wait(self) -> None:
        """Until every rank has ended."""
        while self._living:
            pid, status = os.wait()
            rank = self._living.pop(pid, None)
            code = os.waitstatus_to_exitcode(status)
            if rank is not None and code != 0 and self.first_failure is None:
                self.first_failure = rank, code
                if not self._is_stopping:  # else they were told to stop, and have the time for that
                    signal.alarm(NOTICE_S)
        signal.alarm(0)

    def _on_alarm(self, _number: int, _frame: FrameType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        self._is_stopping = True
        number = next(self._signals, signal.SIGKILL)
        for pid in list(self._living):
            os.kill(pid, number)  # not reaped yet, so the number is still theirs
        signal.alarm(KILL_AFTER_S)


def launch(command: list[str]) -> int:
    """Run ``command`` (a program and its options, for this Python) as the job's ranks on this node; the exit status.

    Raises:
        ProgramError: the job's description of the ranks cannot be.
    """
    place = place_of_this_node(os.environ)
    processes, nodes, node = place.processes, place.nodes, place.node
    command = [sys.executable, *command]
    if processes * nodes == 1:
        os.execv(command[0], command)
    with tempfile.TemporaryDirectory() as folder:
        meeting = os.environ.get(environment.RENDEZVOUS) or str(Path(folder) / "rendezvous.json")
        if nodes > 1 and place.address is None and not os.environ.get(environment.RENDEZVOUS):
            raise ProgramError(f"{nodes} nodes need {environment.RENDEZVOUS}, a file on a disk that all of them see")
        ranks = Ranks()
        ranks.listen()
        for local in range(processes):
            rank = node * processes + local
            variables = {
                "RANK": str(rank),
                "LOCAL_RANK": str(local),
                "WORLD_SIZE": str(nodes * processes),
                "LOCAL_WORLD_SIZE": str(processes),
                environment.RENDEZVOUS: "" if place.address else meeting,
            }
            ranks.start(command, rank, variables)
        ranks.wait()
    if ranks.first_failure is None:
        return 0
    rank, code = ranks.first_failure
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
    print(f"error: rank {rank} of {nodes * processes} {ended}; the others were stopped", file=sys.stderr)  # noqa: T201
    return code if code > 0 else 128 - code


def die_with(parent: int) -> Callable[[], None]:
    """What a child does before its program starts: ask the kernel for SIGTERM when its parent is gone."""
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it went before we asked
            os._exit(128 + signal.SIGTERM)

    return ask


if __name__ == "__main__":
    try:
        sys.exit(launch(sys.argv[1:]))
    except ProgramError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_USER_ERROR)
