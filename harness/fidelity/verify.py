"""Building a Dockerfile with Docker, and a definition with Apptainer, and comparing the two.

Apptainer shows a build the machine's own /tmp and /var/tmp, writable. What is built here comes from anywhere, so every
Apptainer runs in a mount namespace whose /tmp and /var/tmp are folders of the lab.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.definition.context import Context
from harness.definition.convert import BaseConfig, convert
from harness.definition.dockerfile import read_dockerfile
from harness.definition.model import CopiedFile, Definition, Layer
from harness.definition.writer import write_definition
from harness.errors import CommandError, HarnessError, MissingToolError, SpecError, UserError
from harness.fidelity.behaviour import Behaviour, apptainer_behaviour, docker_behaviour
from harness.fidelity.docker import Docker, docker_engine, streamed
from harness.fidelity.tree import Entry, compare_trees, read_tree
from harness.fidelity.verdicts import Verdict
from harness.image.base import base_source
from harness.image.driver import remove_tree
from harness.image.engine import Engine, find_engine
from harness.image.local_registry import LocalRegistry
from harness.image.process import CommandResult, run_command
from harness.image.reference import ImageReference

BUILD_SECONDS = 900.0
RUN_SECONDS = 60.0
DEBIAN = "debian:bookworm-slim"
# The machine's own environment while the image's is looked at: none of it may get into what the Dockerfile set.
HOST_VARIABLES = {
    "PATH": os.defpath,
    "HOME": "/root",
    "PYTHONPATH": "/of/the/host",
    "UNKNOWN": "of the host",
    "NCCL_DEBUG": "HOST",
}
SHARED = (Path("/tmp"), Path("/var/tmp"))
_ISOLATED = 'mount --bind "$1" /tmp && mount --bind "$2" /var/tmp && shift 2 && exec "$@"'

Converter = Callable[[Path], str]
"""A Dockerfile -> the text of a definition to build in the Dockerfile's folder; SpecError refuses."""


@dataclass(frozen=True)
class Reference:
    """What Docker built."""

    tree: dict[str, Entry]
    behaviour: Behaviour


@dataclass(frozen=True)
class Lab:
    """Docker, Apptainer and a registry that serves both the same bases.

    Attributes:
        docker, engine: the two builders.
        registry: serves Apptainer the bases that Docker has.
        work: a folder for everything that is made; outside /tmp.
        published: images that the registry serves.
    """

    docker: Docker
    engine: Engine
    registry: LocalRegistry
    work: Path
    published: set[str] = field(default_factory=set)

    def publish(self, name: str) -> None:
        """Let Apptainer have an image of Docker's under its own name."""
        image = ImageReference.parse(name)
        served = str(self.registry.reference(image))
        self.docker.call("tag", name, served)
        self.docker.call("push", "-q", served)
        self.published.add(str(image))

    def reference(self, dockerfile: Path, context: Path) -> Reference:
        """Build with Docker.

        Raises:
            CommandError: Docker cannot build it.
        """
        tag = f"harness-verify:{uuid.uuid4().hex}"  # of its own: several may be built at a time
        self.docker.build(context, dockerfile, tag)
        try:
            with self.docker.exported(tag) as stream:
                tree = read_tree(stream)
            return Reference(tree, docker_behaviour(self.docker.config(tag)))
        finally:
            self.docker.call("image", "rm", "-f", tag)

    def base_config(self, reference: str) -> BaseConfig:
        """What an image that Docker has says of itself."""
        return BaseConfig.of(self.docker.config(reference), where=reference)

    def versions(self) -> dict[str, str]:
        """What builds and is compared, by name."""
        return {
            "Docker Engine": self.docker.call("version", "--format", "{{.Server.Version}}"),
            self.engine.name.capitalize(): self.engine.version,
        }

    def verify(self, text: str, context: Path, wanted: Reference) -> Verdict:
        """Build a definition with Apptainer in the folder ``context``, and compare."""
        with tempfile.TemporaryDirectory(dir=self.work, ignore_cleanup_errors=True) as name:
            folder = Path(name)
            try:
                lines = self._build_and_compare(text, context, folder, wanted)
            except CommandError as error:
                return Verdict("failed", (_cause(error),))
            finally:
                remove_tree(folder / "sandbox")
        return Verdict("different" if lines else "identical", tuple(lines))

    def _build_and_compare(self, text: str, context: Path, folder: Path, wanted: Reference) -> list[str]:
        recipe, sandbox = folder / "image.def", folder / "sandbox"
        recipe.write_text(self._served(text), encoding="utf-8")
        self._apptainer(folder, ["build", "--fakeroot", "--sandbox", str(sandbox), str(recipe)], cwd=context)
        inside = ["tar", "-C", str(sandbox), "--numeric-owner", "-cf", "-", "."]
        with streamed(["unshare", "--map-root-user", "--map-auto", *inside]) as stream:
            lines = compare_trees(wanted.tree, read_tree(stream))

        def execute(command: list[str]) -> str:
            start = ["-q", "exec", *self.engine.run_flags(), "--contain", "--pwd", "/", str(sandbox)]
            return self._apptainer(folder, [*start, *command], check=False, host=HOST_VARIABLES).stdout

        return lines + apptainer_behaviour(execute, sandbox, HOST_VARIABLES).differences(wanted.behaviour)

    def _apptainer(
        self,
        folder: Path,
        arguments: list[str],
        *,
        cwd: Path | None = None,
        check: bool = True,
        host: Mapping[str, str] | None = None,
    ) -> CommandResult:
        """Run Apptainer where /tmp and /var/tmp are empty folders below ``folder``, with ``host`` as all variables."""
        private = [folder / "tmp", folder / "var-tmp"]
        for path in private:
            path.mkdir(exist_ok=True)
            path.chmod(0o1777)
        isolated = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", _ISOLATED, "sh"]
        prefix = self.engine.variable_prefix
        # A cache of its own: Apptainer rewrites the index of a shared one in place, under the eyes of other builds.
        environment = {f"{prefix}_TMPDIR": str(folder), f"{prefix}_CACHEDIR": str(folder / "cache")}
        return run_command(
            [*isolated, *map(str, private), str(self.engine.path), *arguments],
            cwd=cwd or self.work,  # one that is still there with another /tmp
            env={**(os.environ if host is None else host), **environment, f"{prefix}_NOHTTPS": "1"},
            timeout_s=BUILD_SECONDS if arguments[0] == "build" else RUN_SECONDS,
            separate_stdout=arguments[0] != "build",
            check=check,
            what="apptainer",
        )

    def _served(self, text: str) -> str:
        """The definition with each base that our registry serves taken from there.

        Apptainer asks Docker Hub itself before any mirror, so a mirror's configuration does not help.
        """
        sections = re.split(r"(?mi)^(?=bootstrap:)", text)
        for position, section in enumerate(sections):
            found = re.search(r"(?m)^From: *(\S.*)$", section)
            if found is None:
                continue
            resolved = found[1]
            for name, value in re.findall(r"(?m)^(\w+)=(.*)$", section.partition("%arguments")[2]):
                resolved = resolved.replace(f"{{{{ {name} }}}}", value)
            with contextlib.suppress(HarnessError):
                image = ImageReference.parse(resolved)
                if str(image) in self.published:
                    sections[position] = section.replace(found[0], f"From: {self.registry.reference(image)}", 1)
        return "".join(sections)


@contextlib.contextmanager
def open_lab(cache: Path) -> Iterator[Lab]:
    """A lab that knows Debian, bootstrapped where no registry answers.

    Raises:
        MissingToolError: a builder is not on this machine, or the user is not root. HarnessError: one did not start.
    """
    engine = find_engine()
    if os.geteuid() != 0:
        raise MissingToolError("keeping builds off the machine's /tmp needs root", fix="run as root")
    cache = cache.resolve()
    if any(cache.is_relative_to(shared) for shared in SHARED):
        raise MissingToolError(
            "the cache is below /tmp, which builds may see", where=str(cache), fix="set HARNESS_CACHE to another folder"
        )
    cache.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        work = Path(
            stack.enter_context(tempfile.TemporaryDirectory(dir=cache, prefix="v-", ignore_cleanup_errors=True))
        )
        docker = stack.enter_context(docker_engine(work / "docker"))
        registry = stack.enter_context(LocalRegistry(work / "registry", read_only=False))
        lab = Lab(docker, engine, registry, work)
        with base_source(DEBIAN, cache) as source:
            docker.call("pull", "-q", source.resolved)
            docker.call("tag", source.resolved, DEBIAN)
        lab.publish(DEBIAN)
        yield lab


def our_converter(lab: Lab) -> Converter:
    """This project's converter, told what the bases say of themselves."""

    def converted(dockerfile: Path) -> str:
        context = Context.of(dockerfile.parent, ".", dockerfile=dockerfile)
        known = {name: lab.base_config(name) for name in _images(lab, dockerfile)}
        return write_definition(convert(read_dockerfile(dockerfile, dockerfile.name), context, bases=known.get))

    return converted


def definition_or_verdict(converter: Converter, dockerfile: Path) -> str | Verdict:
    """The definition, or the verdict where there is none."""
    try:
        return converter(dockerfile)
    except SpecError as error:
        return Verdict("refused", (str(error),))
    except HarnessError as error:
        return Verdict("failed", (str(error),))


def verify_definition(definition: Definition, dockerfile: Path, context: Path, prefix: str, cache: Path) -> Verdict:
    """Does ``definition`` build what ``dockerfile`` builds?

    Args:
        context: the folder with the build context; what is built sees a copy of it.
        prefix: the context's path in the definition.

    Raises:
        UserError: the context is no folder, or holds the cache. MissingToolError, HarnessError: as :func:`open_lab`.
        CommandError: Docker cannot build the Dockerfile.
    """
    if not context.is_dir():
        raise UserError("the build context is no folder, so nothing can be built", where=str(context))
    if cache.resolve().is_relative_to(context.resolve()):
        raise UserError(
            "the cache is in the build context, and would get into what is built",
            where=str(cache),
            fix="set HARNESS_CACHE to a folder outside of it",
        )
    with open_lab(cache) as lab:
        copied = lab.work / "context"
        shutil.copytree(context, copied, symlinks=True, ignore=_special_files)
        text = write_definition(_from_context(definition, prefix))
        return lab.verify(text, copied, lab.reference(dockerfile.absolute(), copied))


def _from_context(definition: Definition, prefix: str) -> Definition:
    """The same definition, to be built in the folder of the context."""

    def moved(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        return tuple(replace(layer, files=tuple(map(moved_file, layer.files))) for layer in layers)

    def moved_file(copied: CopiedFile) -> CopiedFile:
        return copied if copied.stage else replace(copied, source=posixpath.relpath(copied.source, prefix or "."))

    stages = tuple(replace(stage, layers=moved(stage.layers)) for stage in definition.stages)
    return replace(definition, layers=moved(definition.layers), stages=stages)


def _special_files(folder: str, names: list[str]) -> list[str]:
    """Sockets and the like, which no build can copy."""
    paths = {name: Path(folder) / name for name in names}
    return [name for name, path in paths.items() if not (path.is_symlink() or path.is_file() or path.is_dir())]


def _images(lab: Lab, dockerfile: Path) -> list[str]:
    """Images that Docker has and that the Dockerfile mentions."""
    listed = lab.docker.call("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
    text = dockerfile.read_text(encoding="utf-8")
    return [name for name in listed if "<none>" not in name and name.split(":")[0] in text]


def _cause(error: CommandError) -> str:
    lines = [line for line in error.output.splitlines() if line.strip() and not line.startswith(("+", "INFO"))]
    return (lines[-2:-1] or [str(error)])[0].strip()[:300] + (f" / {lines[-1].strip()[:200]}" if lines else "")
