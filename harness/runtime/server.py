"""A server as a part of a program: started on a free port, waited for, stopped with everything it started."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.runtime.errors import ProgramError
from harness.runtime.launch import die_with

HOST = "127.0.0.1"  # nobody but this job's own programs
STOP_S = 30  # between SIGTERM and SIGKILL
ATTEMPTS = 3  # at a port: another program may take it between our look and the server's start
PORT_TAKEN = "address already in use"


@contextmanager
def serving(
    command: Callable[[int], list[str]],
    log: Path,
    *,
    variables: Mapping[str, str] | None = None,
    ready: str = "/health",
    timeout: float = 1800.0,
) -> Iterator[str]:
    """Start ``command(port)``, wait until ``ready`` answers 200, give its address; at the end stop it.

    Args:
        log: all it prints, kept.
        variables: added to its environment.
        timeout: seconds to be ready in; a large model is read from a disk.

    Raises:
        ProgramError: it ended before it was ready, or was not ready in time; says the log's last lines.
    """
    for attempt in range(1, ATTEMPTS + 1):
        port = free_port()
        process = _start(command(port), log, {**os.environ, **(variables or {})})
        try:
            if _wait_until_ready(process, port, ready, timeout):
                yield f"http://{HOST}:{port}"
                return
        finally:
            _stop(process)
        if attempt == ATTEMPTS or PORT_TAKEN not in _tail(log, 50).lower():
            raise ProgramError(f"the server ended with status {process.returncode} ({log}): {_tail(log, 5)}")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def _start(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as stream:
        # a session of its own: its workers are stopped with it
        return subprocess.Popen(
            command, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=die_with(os.getpid()),
        )  # fmt: skip


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, ready: str, timeout: float) -> bool:
    """Whether it is ready; False where it has ended. Looks four times a second, and at once when it ends."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            process.wait(0.25)
            return False
        except subprocess.TimeoutExpired:
            if _answers(port, ready):
                return True
    raise ProgramError(f"the server was not ready after {timeout:.0f} s")


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False  # not listening yet
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and all processes it started."""
    if process.poll() is None:
        process.terminate()  # it tells its workers
        with suppress(subprocess.TimeoutExpired):  # then it is killed with the rest
            process.wait(STOP_S)
    with suppress(ProcessLookupError):  # nobody is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: Path, lines: int) -> str:
    return " | ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-lines:])
