"""A real Docker engine: this machine's, or a private one for the length of a ``with`` block."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness.errors import CommandError, HarnessError, MissingToolError
from harness.image.process import kill_group, run_command

START_SECONDS = 30.0
# What scripts/install-docker brings where the distribution's engine is older than today's syntax.
OWN_PROGRAMS = Path("/opt/docker/bin")
BUILD_SECONDS = 900.0


@dataclass(frozen=True)
class Docker:
    """A client and the engine it talks to.

    Attributes:
        client: the program.
        host: as DOCKER_HOST; None for the client's own choice.
        buildkit: False where the client lacks what BuildKit needs.
    """

    client: str
    host: str | None
    buildkit: bool

    def environment(self) -> dict[str, str]:
        """Variables for the client."""
        host = {"DOCKER_HOST": self.host} if self.host else {}
        return {**os.environ, **host, "DOCKER_BUILDKIT": "1" if self.buildkit else "0"}

    def call(self, *arguments: str) -> str:
        """Run the client and return what it printed.

        Raises:
            CommandError: it failed.
        """
        return run_command(
            [self.client, *arguments],
            env=self.environment(),
            timeout_s=BUILD_SECONDS,
            separate_stdout=True,
            what=f"docker {arguments[0]}",
        ).stdout.strip()

    def build(self, context: Path, dockerfile: Path, tag: str) -> None:
        """Build an image; the network is the machine's own, for a private engine has no bridge.

        Raises:
            CommandError: the build failed.
        """
        self.call("build", "--network", "host", "-q", "-t", tag, "-f", str(dockerfile), str(context))

    def config(self, image: str) -> dict[str, Any]:
        """An image's configuration."""
        found: dict[str, Any] = json.loads(self.call("image", "inspect", image))[0]["Config"]
        return found

    @contextlib.contextmanager
    def exported(self, image: str) -> Iterator[IO[bytes]]:
        """The image's file tree as a tar stream."""
        container = self.call("create", image, "true")
        try:
            with streamed([self.client, "export", container], self.environment()) as stream:
                yield stream
        finally:
            self.call("rm", "-f", container)


@contextlib.contextmanager
def streamed(command: list[str], env: dict[str, str] | None = None) -> Iterator[IO[bytes]]:
    """The standard output of a program.

    Raises:
        CommandError: it failed.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env) as process:
        assert process.stdout is not None
        yield process.stdout
        process.stdout.read()
    if process.returncode:
        status = process.returncode
        raise CommandError(f"{command[0]} ended with status {status}", command=command, returncode=status, output="")


@contextlib.contextmanager
def docker_engine(folder: Path) -> Iterator[Docker]:
    """The machine's engine if one answers, else a private one in ``folder`` that ends with the block.

    Raises:
        MissingToolError: there is no client, or no engine and no means to start one.
        HarnessError: the private engine did not start.
    """
    client = _client()
    if _answers(client, None):
        yield Docker(client, None, _has_buildkit(client))
        return
    program = shutil.which("dockerd", path=_search_path())
    if program is None or os.geteuid() != 0:
        raise MissingToolError(
            "no Docker engine answers, and a private one needs root and dockerd",
            fix="run as root: scripts/install-packages docker",
        )
    folder.mkdir(parents=True)
    process = _start(program, folder)
    host = f"unix://{folder}/docker.sock"
    try:
        _wait(client, host, process, folder / "log")
        yield Docker(client, host, _has_buildkit(client))
    finally:
        process.terminate()  # it ends its containerd and takes its mounts away
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        kill_group(process)
        subprocess.run(["umount", "-l", str(folder / "data")], check=False, capture_output=True)


def _start(program: str, folder: Path) -> subprocess.Popen[bytes]:
    options = ["--iptables=false", "--ip6tables=false", "--bridge=none", "-H", f"unix://{folder}/docker.sock"]
    options += ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "-p", f"{folder}/pid"]
    env = {**os.environ, "PATH": _search_path()}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [program, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True
        )


def _search_path() -> str:
    return f"{OWN_PROGRAMS}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _wait(client: str, host: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if _answers(client, host):
            return
        time.sleep(0.2)
    lines = log.read_text(errors="replace").strip().splitlines()
    raise HarnessError(f"the private Docker engine did not start: {lines[-1] if lines else 'it said nothing'}")


def _client() -> str:
    # Debian's own client builds through BuildKit without a plugin: it goes first.
    for candidate in ("/usr/bin/docker", shutil.which("docker")):
        if candidate and Path(candidate).exists():
            return candidate
    raise MissingToolError("there is no docker client", fix="run as root: scripts/install-packages docker")


def _answers(client: str, host: str | None) -> bool:
    env = {**os.environ, **({"DOCKER_HOST": host} if host else {})}
    return _status([client, "version"], env) == 0


def _has_buildkit(client: str) -> bool:
    if _status([client, "buildx", "version"], dict(os.environ)) == 0:
        return True
    said = subprocess.run([client, "--version"], capture_output=True, text=True, check=False).stdout
    major = "".join(c for c in said.partition("version ")[2].partition(".")[0] if c.isdigit())
    return bool(major) and int(major) < 23  # newer clients leave BuildKit to the plugin


def _status(command: list[str], env: dict[str, str]) -> int:
    return subprocess.run(command, capture_output=True, env=env, check=False, timeout=START_SECONDS).returncode
