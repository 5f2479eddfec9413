"""The other way to a stack's image: its Dockerfile built by a Docker engine, and the result converted.

The engine builds a copy of the Dockerfile that differs in two lines after each FROM: one copies the machine's package
configuration to a folder, the other points pip, apt and TLS at it by ARGs, which last as long as the build. The
conversion removes the folder; as a SIF holds one flat tree, no layer remembers them. The conversion is a definition of
ours, so it ends with the same closing steps, labels and tests as the stack's own definition.

A stage made this way has a key of its own. Trees and behaviour of the two ways are compared by a test; bytes are not:
two engines run the commands, with other host names, kernels' limits and orders of writing. So neither way's cached
stage or published image passes for the other's, and a manifest and a lock say which way it was.

The SDK speaks to the engine's own builder, not to BuildKit: a Dockerfile with RUN --mount or here-documents is refused.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import re
import secrets
import shutil
import stat
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.definition.dockerfile import Instruction, read_dockerfile
from harness.definition.model import Definition, Layer
from harness.definition.reproducible import EPOCH
from harness.definition.shell import FORGET_BASE_VARIABLES
from harness.definition.state import misread
from harness.definition.words import literal
from harness.definition.writer import LENT_FOLDER
from harness.errors import CommandError, HarnessError, MissingToolError
from harness.image.base import BaseImage
from harness.image.lend import Lent
from harness.image.process import ERROR_LINES, LineCallback

# The SDK is imported where it is used: it takes a sixth of the time that any command takes to start.
if TYPE_CHECKING:
    import docker

ARCHIVE = "image.tar"
"""The engine's image as a file, beside the definition that converts it."""

CONNECT_S = 10
"""Seconds for the engine to answer."""

SILENCE_S = 3600
"""Seconds without a line of output after which a build counts as lost."""

_BUILDKIT_FLAGS = ("--mount", "--network", "--security", "--link", "--chmod", "--checksum", "--parents", "--exclude")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_STEP_IMAGE = re.compile(r"---> ([0-9a-f]{12,})")
_LENT = ".lent-to-the-build"
"""The folder of the loan, in the context and at the root of the image while it is built."""

_FILES = {
    "pip.conf": ("PIP_CONFIG_FILE",),
    "ca.pem": ("PIP_CERT", "SSL_CERT_FILE"),
    "apt.conf": ("APT_CONFIG",),
}


@dataclass(frozen=True)
class DockerEngine:
    """A running Docker engine.

    Attributes:
        client: the SDK's.
        version: of the engine.
    """

    client: docker.DockerClient
    version: str


@contextlib.contextmanager
def docker_engine() -> Iterator[DockerEngine]:
    """The engine that ``DOCKER_HOST`` or the usual socket leads to.

    Raises:
        MissingToolError: none answers.
    """
    import docker
    import docker.errors
    import requests

    fix = "start one (systemctl start docker), set DOCKER_HOST, or build without --via docker"
    try:
        client = docker.from_env(timeout=CONNECT_S)
        version = str(client.version()["Version"])
    except (docker.errors.DockerException, requests.RequestException) as error:
        where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        raise MissingToolError(f"no Docker engine answers ({_words(error)})", where=where, fix=fix) from error
    client.api.timeout = SILENCE_S
    with contextlib.closing(client):
        yield DockerEngine(client, version)


def build_archive(
    engine: DockerEngine,
    dockerfile: Path,
    display_name: str,
    base_argument: str,
    base: BaseImage,
    lent: Lent,
    work: Path,
    say: LineCallback,
) -> dict[str, str]:
    """Build a Dockerfile, in its folder as the context,, to ``work/image.tar``. The engine keeps nothing of it.

    Args:
        display_name: the Dockerfile's path for messages.
        base_argument: the build argument that names the base.
        base: served on loopback of this machine, which must be the engine's.
        lent: the package configuration.
        say: called with each line of the build.

    Returns:
        The image's variables.

    Raises:
        SpecError: the Dockerfile needs BuildKit. CommandError: the build failed.
        HarnessError: the engine does not get the base, or its image cannot be had.
    """
    import docker.errors
    import requests

    failures = (docker.errors.DockerException, requests.RequestException)
    instructions = read_dockerfile(dockerfile, display_name)
    refuse_buildkit(instructions)
    context = _context(dockerfile, instructions, lent, work / "context")
    tag = f"harness-{secrets.token_hex(8)}"
    made: list[str] = []
    with _folders_served(lent, context / _LENT):
        try:
            before = {image.id for image in engine.client.images.list(all=True)}
            repository, _, digest = base.resolved.partition("@")
            engine.client.images.pull(repository, tag=digest)
            _build(engine, context, dockerfile.name, display_name, tag, {base_argument: base.resolved}, say, made)
            image = engine.client.images.get(tag)
            with (work / ARCHIVE).open("wb") as stream:
                for chunk in image.save(named=True):
                    stream.write(chunk)
        except failures as error:
            raise HarnessError(
                f"the Docker engine failed: {_words(error)}",
                where=display_name,
                fix="the engine must run on this machine: the base image is served to it on loopback",
            ) from error
        finally:
            # The steps hold the loan, which may hold a password; those of earlier stages and of a failed build stay.
            for name in (tag, *reversed(made), base.resolved):
                with contextlib.suppress(*failures):
                    if name in (tag, base.resolved) or engine.client.images.get(name).id not in before:
                        engine.client.images.remove(name)
    pairs = (pair.partition("=") for pair in image.attrs["Config"].get("Env") or [])
    return {name: value for name, _, value in pairs}


def conversion(definition: Definition, variables: dict[str, str]) -> Definition:
    """A definition that makes of ``image.tar`` what ``definition`` makes of its Dockerfile.

    Args:
        definition: the stack's own.
        variables: those of the engine's image, which are frozen as in Docker's.
    """
    own = [name for layer in definition.layers for name, _ in layer.environment]
    said_by_base = not misread(variables.values())
    names = dict.fromkeys(own) if said_by_base else variables
    environment = tuple((name, literal(variables[name])) for name in names if name in variables)
    labels = tuple(pair for layer in definition.layers for pair in layer.labels)
    commands = (f"rm -rf /{_LENT}", *(() if said_by_base else (FORGET_BASE_VARIABLES,)))
    layer = Layer(commands=commands, environment=environment, labels=labels)
    return replace(
        definition, bootstrap="docker-archive", base=ARCHIVE, arguments=(), layers=(layer,), stages=(), header=()
    )


def lent_dockerfile(text: str, instructions: list[Instruction], lent: list[str]) -> str:
    """The Dockerfile with the loan put in after each FROM.

    Args:
        lent: names of the files that there are to lend.
    """
    arguments = [f"ARG {variable}=/{_LENT}/{name}" for name in lent for variable in _FILES[name]]
    # As in our definitions: byte code is marked by its source's hash, and useradd does not put today's date.
    loan = [*arguments, f"ARG SOURCE_DATE_EPOCH={EPOCH}", f"COPY {_LENT} /{_LENT}"]
    lines = text.removeprefix("\ufeff").split("\n")
    for instruction in reversed([i for i in instructions if i.name == "FROM"]):
        end = int(instruction.where.rpartition(":")[2]) - 1 + len(instruction.lines)
        lines[end:end] = loan
    return "\n".join(lines)


def refuse_buildkit(instructions: list[Instruction]) -> None:
    """Only what the engine's own builder knows goes on.

    Raises:
        SpecError: an instruction needs BuildKit.
    """
    for instruction in instructions:
        modern = [name for flag in instruction.flags if (name := flag.partition("=")[0]) in _BUILDKIT_FLAGS]
        if modern or instruction.heredocs:
            what = modern[0] if modern else "a here-document"
            raise instruction.refuse(f"{what} needs BuildKit, which Docker's SDK lacks", "build without --via docker")


def _context(dockerfile: Path, instructions: list[Instruction], lent: Lent, context: Path) -> Path:
    """A copy of the Dockerfile's folder with the loan; modes as a definition sets them, whatever the checkout's are."""
    shutil.copytree(dockerfile.parent, context, symlinks=True)
    for path in context.rglob("*"):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if executable else 0o644)
    loan = context / _LENT
    loan.mkdir()
    names = [name for name in _FILES if (lent.folder / name).is_file()]
    for name in names:
        shutil.copyfile(lent.folder / name, loan / name)
        (loan / name).chmod(0o644)
    text = dockerfile.read_text(encoding="utf-8")
    (context / dockerfile.name).write_text(lent_dockerfile(text, instructions, names), encoding="utf-8")
    ignored = context / ".dockerignore"
    if ignored.is_file():
        ignored.write_text(f"{ignored.read_text(encoding='utf-8')}\n!{_LENT}\n!{_LENT}/**\n", encoding="utf-8")
    return context


@contextlib.contextmanager
def _folders_served(lent: Lent, loan: Path) -> Iterator[None]:
    """Package folders of this machine, for the length of the block: its build has no binds, but our loopback."""
    text = (loan / "pip.conf").read_text(encoding="utf-8")
    with contextlib.ExitStack() as stack:
        for bind in lent.binds:
            root, inside = bind.removesuffix(":ro").split(":")
            if inside == LENT_FOLDER:
                continue
            handler = functools.partial(_QuietFiles, directory=root)
            server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            stack.callback(server.shutdown)
            text = text.replace(f"file://{inside}", f"http://127.0.0.1:{server.server_port}")
        (loan / "pip.conf").write_text(text, encoding="utf-8")
        yield


class _QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: pip says what it fetches."""


def _build(
    engine: DockerEngine,
    context: Path,
    dockerfile: str,
    display_name: str,
    tag: str,
    arguments: dict[str, str],
    say: LineCallback,
    made: list[str],
) -> None:
    """Run the build, with the machine's own network: mirrors and package folders may be on loopback.

    Args:
        made: gets the id of each step's image, also where the build fails.

    Raises:
        CommandError: it failed. docker.errors.APIError: the engine does not take it.
    """
    last: deque[str] = deque(maxlen=ERROR_LINES)
    # No cache of the engine's: which inputs an image was made from is what our own keys say.
    for event in engine.client.api.build(
        path=str(context),
        dockerfile=dockerfile,
        tag=tag,
        buildargs=arguments,
        network_mode="host",
        nocache=True,
        rm=True,
        forcerm=True,
        decode=True,
    ):
        for line in str(event.get("stream") or "").splitlines():
            if text := _COLOUR.sub("", line).strip():
                last.append(text)
                say(text)
            if step := _STEP_IMAGE.fullmatch(text):
                made.append(step[1])
        if "error" in event:
            what, output = f"docker build: {str(event['error']).strip()}", "\n".join(last)
            raise CommandError(what, command=["docker", "build"], returncode=1, output=output, where=display_name)


def _words(error: Exception) -> str:
    """The cause in short; the SDK's texts wrap those of three libraries."""
    explanation = getattr(error, "explanation", None)  # of docker.errors.APIError
    if explanation:
        return str(explanation)
    causes = re.findall(r"'([^']+)'", str(error))
    return causes[-1].lower() if causes else str(error)
