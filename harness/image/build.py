"""Building a tutorial's image: its stack as a cached stage, the tutorial on top, tested."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.definition.model import Definition, Layer
from harness.definition.reproducible import EPOCH, reproducible
from harness.definition.tutorial_image import (
    definition_key,
    on_top,
    stack_definition,
    tutorial_definition,
    tutorial_layer,
)
from harness.definition.writer import write_definition
from harness.errors import CommandError, HarnessError
from harness.image.base import BaseImage, base_source
from harness.image.contents import ImageLock, base_of, embed, tool_versions
from harness.image.engine import Engine
from harness.image.lend import prepare
from harness.image.overlay import add_overlay, overlay_files, qualifies, read_stage
from harness.image.process import run_command
from harness.image.sif import normalise
from harness.image.workplace import link_sources, make_home, private_temporaries, public_name
from harness.project import Project, Variant, image_name
from harness.site import Site
from harness.stack import Stack, load_stack
from harness.tutorial import Tutorial

# zstd at level 3 with 128 KiB blocks packs 18 times faster than Apptainer's gzip at 1.02 of its size.
COMPRESSION = "zstd-3"
MKSQUASHFS_ARGUMENTS = "-comp zstd -Xcompression-level 3 -b 131072"
BASE_ARGUMENT = "BASE_IMAGE"
INDEX_SECONDS = 5.0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ImageBuilder:
    """Builds images of one project with one engine.

    Attributes:
        cache: stage images, bases, temporary trees and logs; must be on a local disk.
        progress: called with each line of what is going on.
        use_overlay: add a tutorial's layer as a partition; False builds the whole image as plain Apptainer does.
    """

    project: Project
    site: Site
    engine: Engine
    cache: Path
    progress: Progress
    use_overlay: bool = True

    def build(self, tutorial: Tutorial, variant: Variant, target: Path) -> BaseImage:
        """Build one tutorial's image, tested, not signed, to ``target``, which is missing where that fails.

        Returns:
            The base it stands on.

        Raises:
            SpecError: the definition cannot be made. HarnessError: the build, a test in it, or the base failed.
        """
        name = image_name(tutorial.stem, variant)
        stage, base = self._stack_stage(load_stack(self.project, tutorial.stack), variant)
        layer = tutorial_layer(self.project, tutorial, variant)
        definition = tutorial_definition(self.project, tutorial, variant)
        if self.use_overlay and qualifies(layer):
            self._add_layer(definition, layer, stage, target, name)
        else:
            parent = Definition("localimage", f"{tutorial.stack}.{variant}.sif")
            child = reproducible(on_top(self.project, parent, tutorial, variant))
            self._apptainer_build(child, target, name, stage=stage)
        lock = ImageLock(
            name=name,
            tutorial=tutorial.id,
            stack=tutorial.stack,
            variant=variant,
            definition_sha256=definition_key(self.project, definition),
            base=base_of(base),
            compression=COMPRESSION,
            epoch=EPOCH,
            tools=tool_versions(self.engine),
        )
        embed(self.engine, target, lock)
        normalise(target, EPOCH)
        return base

    def build_stack(self, stack: Stack, variant: Variant) -> Path:
        """Build a stack alone, tested, into the cache, where it is not there yet; tutorials then stand on it.

        Raises:
            SpecError, HarnessError: as :meth:`build`.
        """
        return self._stack_stage(stack, variant)[0]

    def _add_layer(self, definition: Definition, layer: Layer, stage: Path, target: Path, name: str) -> None:
        """Copy the stack's image, add the tutorial's layer to it, and run the definition's tests in the result."""
        self.progress(f"{name}: adding its layer")
        with self._work_folder(name) as work:
            metadata = read_stage(self.engine, stage)
            files = overlay_files(definition, layer, self.project.root, metadata)
            environment = self._environment(work, None)
            try:
                packing = MKSQUASHFS_ARGUMENTS.split()
                add_overlay(self.engine, stage, target, files, metadata, work, packing, environment)
                self.progress(f"{name}: Running testscript")
                test = [str(self.engine.path), "test", *self.engine.run_flags(), "--cleanenv", "--no-home", str(target)]
                self._logged(test, name, environment, work)
            except BaseException:
                target.unlink(missing_ok=True)
                raise

    def _stack_stage(self, stack: Stack, variant: Variant) -> tuple[Path, BaseImage]:
        """The stack's image, from the cache where its inputs are unchanged, and the base it stands on."""
        definition = reproducible(stack_definition(self.project, stack, variant))
        name = f"{stack.name}.{variant}"
        reference = dict(definition.arguments).get(BASE_ARGUMENT)
        if reference is None:
            where = f"containers/{stack.name}/{stack.variants[variant].dockerfile}"
            raise HarnessError(
                f"there is no ARG {BASE_ARGUMENT}=…", where=where, fix=f"write ARG {BASE_ARGUMENT} and FROM it"
            )
        with base_source(reference, self.cache, mirrors=tuple(self.site.registries), on_line=self.progress) as base:
            stage = self.cache / "stages" / f"{name}-{self._stage_key(definition, base)}.sif"
            if stage.is_file():
                return stage, base
            with exclusive(self.cache, name, self.progress):
                if not stage.is_file():  # nobody else built it while we waited
                    stage.parent.mkdir(parents=True, exist_ok=True)
                    temporary = stage.with_name(f".building-{os.getpid()}-{stage.name}")
                    indexes = reachable(stack.variants[variant].extra_indexes)
                    try:
                        self._apptainer_build(definition, temporary, name, base=base, extra_indexes=indexes)
                        temporary.replace(stage)
                    finally:
                        temporary.unlink(missing_ok=True)
        return stage, base

    def _stage_key(self, definition: Definition, base: BaseImage) -> str:
        parts = (definition_key(self.project, definition), base.digest, COMPRESSION, self.engine.version)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _apptainer_build(
        self,
        definition: Definition,
        target: Path,
        name: str,
        *,
        stage: Path | None = None,
        base: BaseImage | None = None,
        extra_indexes: list[str] | None = None,
    ) -> None:
        """Run ``apptainer build``; its %test runs before ``target`` is complete. The full output goes to a log.

        Args:
            stage: the image that a ``localimage`` definition stands on, under whatever name the definition has for it.
        """
        with self._work_folder(name) as work:
            recipe = work / f"{name}.def"
            recipe.write_text(write_definition(definition), encoding="utf-8")
            if stage is not None:
                (work / definition.base).symlink_to(stage.absolute())
            lent_folder = work / "lent"
            lent_folder.mkdir()
            lent = prepare(lent_folder, extra_indexes or [])
            command = [
                str(self.engine.path),
                "build",
                "--force",
                "--fakeroot",
                "--mksquashfs-args",
                MKSQUASHFS_ARGUMENTS,
            ]
            for bind in (*lent.binds, *private_temporaries(work)):
                command += ["--bind", bind]
            if base is not None:
                command += ["--build-arg", f"{BASE_ARGUMENT}={public_name(base)}"]
            command += [str(target.absolute()), recipe.name]
            environment = self._environment(work, base)
            link_sources(work, self.project.root, definition)
            self._logged(command, name, environment, work)

    def _logged(self, command: list[str], name: str, environment: dict[str, str], folder: Path) -> None:
        """Run a command in ``folder``; its output goes to the name's log and line by line to the progress.

        Raises:
            HarnessError: it failed, in one line.
        """
        log = self.cache / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("w", encoding="utf-8") as stream:

                def on_line(line: str) -> None:
                    stream.write(line + "\n")
                    stream.flush()
                    self.progress(f"{name}: {line}")

                run_command(command, cwd=folder, env=environment, on_line=on_line, umask=0o022)
        except CommandError as error:
            raise explain_failure(error, name, log, self.cache) from error

    @contextlib.contextmanager
    def _work_folder(self, name: str) -> Iterator[Path]:
        """A temporary folder in the cache, removed in the end with what mapped users left in it."""
        root = self.cache / "tmp"
        for folder in (root, self.cache / "apptainer"):
            folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f"build-{name}-", dir=root))
        try:
            yield work
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise no_space(name, self.cache) from error
            raise
        finally:
            remove_tree(work)

    def _environment(self, work: Path, base: BaseImage | None) -> dict[str, str]:
        prefix = self.engine.variable_prefix
        scratch = work / "tmp"
        scratch.mkdir()
        variables = dict(os.environ)
        variables |= {
            "TMPDIR": str(scratch),
            f"{prefix}_TMPDIR": str(scratch),
            f"{prefix}_CACHEDIR": str(self.cache.absolute() / "apptainer"),
            "HOME": str(make_home(work / "home", Path.home(), base)),
            "SOURCE_DATE_EPOCH": str(EPOCH),  # for mksquashfs: newer times become this one
        }
        if base is not None and base.insecure_http:
            variables[f"{prefix}_NOHTTPS"] = "1"
        return variables


@contextlib.contextmanager
def exclusive(cache: Path, name: str, progress: Progress) -> Iterator[None]:
    """One builder of a name at a time on this machine; the lock dies with its process."""
    folder = cache / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"{name}: waiting for another builder")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def no_space(name: str, cache: Path) -> HarnessError:
    """The error for a full disk or quota."""
    fix = "free some, or set HARNESS_CACHE and CATALOG to larger disks"
    return HarnessError(f"no space left while building {name}", where=str(cache), fix=fix)


def explain_failure(error: CommandError, name: str, log: Path, cache: Path) -> HarnessError:
    """A build's failure in one line: full disk by name, else the last thing that was said; the log has it all."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else error.output
    if "no space left on device" in text.lower() or "disk quota exceeded" in text.lower():
        return no_space(name, cache)
    said = [line for line in text.splitlines() if re.match(r"\s*(ERROR|E:|error|Error|FATAL|\w+Error:)", line)]
    # Apptainer closes with "FATAL: … exit status 1"; the cause is what was said before it.
    causes = [line for line in said if not line.startswith("FATAL")] or said or text.splitlines()
    last = causes[-1].strip() if causes else "it printed nothing"
    return HarnessError(f"building {name} failed: {last}", where=str(log), fix="read that log")


def remove_tree(folder: Path) -> None:
    """Remove a build's folder. What a fakeroot build left there belongs to mapped users: ask a user namespace."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        subprocess.run(
            ["unshare", "--map-root-user", "--map-auto", "rm", "-rf", str(folder)], check=False, capture_output=True
        )


def reachable(addresses: list[str]) -> list[str]:
    """Those package indexes that answer: an unreachable one makes pip retry for minutes for every package."""
    answering = []
    for address in addresses:
        try:
            with urllib.request.urlopen(address.rstrip("/") + "/", timeout=INDEX_SECONDS):
                answering.append(address)
        except (urllib.error.URLError, OSError):
            continue  # the machine's own indexes may hold everything; pip says what it does not find
    return answering
