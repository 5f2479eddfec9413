"""An interactive session: a server a person works in, started in a job on a free port, behind a token.

The job script runs this inside the image: ``python -m harness.runtime.session jupyter``. Where to find the server is
written to ``session.json`` in the run folder, which its owner alone can read. The token is made here; it reaches the
server through its environment, so it is on no command line and in no log.
"""

from __future__ import annotations

import http.client
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from harness.runtime import environment
from harness.runtime.errors import ProgramError, Terminated, run_program
from harness.runtime.files import write_json
from harness.runtime.launch import die_with

SESSION_NAME = "session.json"
ATTEMPTS = 3  # another program may take the port between our look and the server's start
EVERYWHERE = "0.0.0.0"  # a person comes from another machine; the token is what guards the server
START_S = 600.0  # a cold image on a shared disk, and a web board that imports everything
STOP_S = 10.0  # a scheduler gives its jobs 30 seconds
OWN_JUPYTER = Path("/opt/jupyter/bin/python")  # of images in which Jupyter has an environment of its own
BOARD_PROGRAM = Path("/opt/tutorial/board.py")


@dataclass(frozen=True)
class Server:
    """How one kind of server is started and asked.

    Attributes:
        command: without the port.
        port_option: what the port is appended to.
        token_variable: where it looks for its token.
        page: path that a person opens.
        ready: path that answers 200 once it is up, given the token.
    """

    command: tuple[str, ...]
    port_option: str
    token_variable: str
    page: str
    ready: str


def servers(home: Path) -> dict[str, Server]:
    """What can be opened; ``home`` is where a person's files are kept."""
    python = str(OWN_JUPYTER) if OWN_JUPYTER.exists() else sys.executable
    jupyter = [
        *(python, "-m", "jupyterlab", "--no-browser", f"--ServerApp.ip={EVERYWHERE}", "--ServerApp.port_retries=0"),
        f"--ServerApp.root_dir={home}",
        # A compute node reaches no server that could have news.
        *("--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url="),
        "--LabApp.extension_manager=readonly",
    ]
    if os.geteuid() == 0:
        jupyter.append("--allow-root")
    return {
        "jupyter": Server(tuple(jupyter), "--ServerApp.port=", "JUPYTER_TOKEN", "/lab", "/api/status"),
        "board": Server((sys.executable, str(BOARD_PROGRAM)), "--port=", "BOARD_TOKEN", "/", "/config"),
    }


@dataclass(frozen=True)
class Session:
    """What ``session.json`` says. ``host``: the machine's own name; ``node``: the scheduler's name of it."""

    kind: str
    host: str
    node: str
    port: int
    page: str
    token: str
    started_at: float


def parse_ports(text: str) -> list[int]:
    """``20000-20999,21005`` as ports.

    Raises:
        ProgramError: it is no such list.
    """
    ports: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise ProgramError(f"{environment.PORTS} is '{text}'; write ports as 20000-20999,21005")
        ports += range(int(first), int(last or first) + 1)
    return ports


def free_port(ports: Sequence[int]) -> int:
    """One of ``ports``, at random, that nobody listened on a moment ago.

    Raises:
        ProgramError: all are taken.
    """
    for port in random.sample(ports, len(ports)):
        if _is_free(port):
            return port
    raise ProgramError(f"none of the site's {len(ports)} ports is free on this node")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((EVERYWHERE, port))
        except OSError:
            return False
    return True


def serve(kind: str, folder: Path, home: Path, ports: Sequence[int]) -> str:
    """Run the server until it ends or the job is told to; returns what went wrong, nothing where it ended well.

    Raises:
        ProgramError: no port is free, or it does not answer in time.
    """
    server = servers(home)[kind]
    token = secrets.token_urlsafe(24)
    session_file = folder / SESSION_NAME
    variables = {
        **os.environ,
        "HOME": str(home),
        "JUPYTER_RUNTIME_DIR": str(Path(os.environ.get("TMPDIR", "/tmp")) / "jupyter"),
        server.token_variable: token,
    }
    for attempt in range(1, ATTEMPTS + 1):
        port = free_port(ports)
        process = _start([*server.command, f"{server.port_option}{port}"], variables, home)
        try:
            if _wait_until_ready(process, port, server.ready, token):
                node = os.environ.get(environment.NODE) or socket.gethostname()
                session = Session(kind, socket.gethostname(), node, port, server.page, token, time.time())
                _write_privately(session_file, session)
                _say(f"{kind} answers on port {port} of {node}; `harness open --list` shows its address")
                status = process.wait()
                return f"{kind} ended with status {status}" if status else ""
        finally:
            session_file.unlink(missing_ok=True)
            _stop(process)
        if attempt == ATTEMPTS or _is_free(port):
            return f"{kind} ended with status {process.returncode} before it answered"
    raise AssertionError("the last attempt returns")


def _start(command: list[str], variables: Mapping[str, str], home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, env=dict(variables), cwd=home, stdin=subprocess.DEVNULL, start_new_session=True,
        preexec_fn=die_with(os.getpid()),
    )  # fmt: skip


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, path: str, token: str) -> bool:
    """Whether it answers; False where it has ended."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.25)
            return False
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
            if connection.getresponse().status == http.client.OK:
                return True
        except (OSError, http.client.HTTPException):
            continue  # not listening yet
        finally:
            connection.close()
    raise ProgramError(f"the server did not answer within {START_S:.0f} s")


def _write_privately(path: Path, session: Session) -> None:
    """Nobody else may read the token, not even while it is being written."""
    before = os.umask(0o077)
    try:
        write_json(path, asdict(session))
    finally:
        os.umask(before)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and all that it started: kernels, trainings."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    with suppress(ProcessLookupError):  # nobody is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _terminated(number: int, _: FrameType | None) -> None:
    raise Terminated(signal.Signals(number).name, 128 + number)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - for the job's log


def main() -> None:
    """The arguments are the kind of server; everything else comes from the job's environment."""
    kind = sys.argv[1] if len(sys.argv) == 2 else ""
    if kind not in ("jupyter", "board"):
        raise ProgramError("say what to open: jupyter or board")
    signal.signal(signal.SIGTERM, _terminated)
    folder = Path(os.environ[environment.RUN_DIR])
    home = Path(os.environ.get(environment.NOTEBOOKS) or folder)
    problem = serve(kind, folder, home, parse_ports(os.environ[environment.PORTS]))
    if problem:
        sys.exit(f"error: {problem}")  # status 1: not a mistake in what was asked


if __name__ == "__main__":
    run_program(main)
