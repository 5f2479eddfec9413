"""Calling the engine to build: in a folder of its own, with an environment of its own, logged, cleaned up."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.definition.model import Definition
from harness.definition.reproducible import EPOCH
from harness.definition.writer import write_definition
from harness.errors import CommandError, HarnessError
from harness.image.base import BaseImage
from harness.image.compression import Compression
from harness.image.engine import Engine
from harness.image.lend import lending
from harness.image.process import LineCallback, run_command
from harness.image.room import UNPACK_AND_PACK, require_room
from harness.image.workplace import link_sources, make_home, private_temporaries, public_name
from harness.owner import sign_folder, signed_prefix
from harness.site import Mirrors

BASE_ARGUMENT = "BASE_IMAGE"
INDEX_SECONDS = 5.0

Progress = LineCallback


@dataclass(frozen=True)
class BuildDriver:
    """Runs one engine's builds for one checkout.

    Attributes:
        root: the checkout.
        cache: temporary trees and logs; must be on a local disk.
        progress: called with each line of what is going on.
        mirrors: of the site, lent to each build.
    """

    root: Path
    engine: Engine
    cache: Path
    progress: Progress
    mirrors: Mirrors = field(default_factory=lambda: Mirrors())

    def build(
        self,
        definition: Definition,
        target: Path,
        name: str,
        compression: Compression,
        *,
        parent: Path | None = None,
        base: BaseImage | None = None,
        extra_indexes: list[str] | None = None,
    ) -> None:
        """Run ``apptainer build``; its %test runs before ``target`` is complete. The full output goes to a log.

        Args:
            parent: the image that a ``localimage`` definition stands on, under whatever name the definition has for it.
            base: the image that any other one stands on.

        Raises:
            HarnessError: it failed, in one line.
        """
        with self.work_folder(name) as work:
            recipe = work / f"{name}.def"
            recipe.write_text(write_definition(definition), encoding="utf-8")
            if parent is not None:
                if parent.suffix == ".sif":  # an archive of Docker's is not packed, so nothing follows from its size
                    require_room(self.cache, UNPACK_AND_PACK * parent.stat().st_size, name)
                (work / definition.base).symlink_to(parent.absolute())
            command = [str(self.engine.path), "build", "--force", "--fakeroot"]
            command += ["--mksquashfs-args", compression.mksquashfs]
            environment = self.environment(work, base)
            link_sources(work, self.root, definition)
            with lending(work / "lent", extra_indexes or [], self.mirrors, self.progress) as lent:
                for bind in (*lent.binds, *private_temporaries(work)):
                    command += ["--bind", bind]
                if base is not None:
                    command += ["--build-arg", f"{BASE_ARGUMENT}={public_name(base)}"]
                command += [str(target.absolute()), recipe.name]
                self.logged(command, name, environment, work)

    def logged(self, command: list[str], name: str, environment: dict[str, str], folder: Path) -> None:
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
    def work_folder(self, name: str) -> Iterator[Path]:
        """A temporary folder in the cache, removed in the end with what mapped users left in it."""
        root = self.cache / "tmp"
        for folder in (root, self.cache / "apptainer"):
            folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=signed_prefix(f"build-{name}-"), dir=root))
        try:
            sign_folder(work)
            yield work
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise no_space(name, self.cache) from error
            raise
        finally:
            remove_tree(work)

    def environment(self, work: Path, base: BaseImage | None) -> dict[str, str]:
        """The environment of a build in ``work``."""
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
        return variables


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


def reachable(addresses: list[str], say: LineCallback) -> list[str]:
    """Those package indexes that answer: an unreachable one makes pip retry for minutes for every package.

    The machine's own indexes may hold everything, and pip says what it does not find.

    Args:
        say: is told of each that is left out, and why.
    """
    answering = []
    for address in addresses:
        try:
            with urllib.request.urlopen(address.rstrip("/") + "/", timeout=INDEX_SECONDS):
                answering.append(address)
        except urllib.error.HTTPError as error:
            say(f"package index {address} is left out: it answers HTTP {error.code}")
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            say(f"package index {address} is left out: it does not answer ({reason})")
    return answering
