"""Resolving Python packages with uv, with hashes, for the Python and the platform they will run on."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from harness.errors import CommandError, HarnessError, MissingToolError
from harness.image.driver import reachable
from harness.image.lend import pip_settings
from harness.image.process import LineCallback, run_command
from harness.lock.inputs import words_digest
from harness.stack import StackVariant
from harness.stack_lock import LockedPython

_RESOLVE_SECONDS = 1800.0
_PINNED = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?==([^\s;\\]+)", re.MULTILINE)


def find_uv() -> list[str]:
    """How uv is called here.

    Raises:
        MissingToolError: it is not here.
    """
    if shutil.which("uv"):
        return ["uv"]
    command = [sys.executable, "-m", "uv"]
    if run_command([*command, "--version"], check=False).returncode == 0:
        return command
    raise MissingToolError("uv is not here", fix=f"run: {sys.executable} -m pip install uv")


def resolve_python(folder: Path, parts: StackVariant, say: LineCallback, *, title: str, upgrade: bool) -> LockedPython:
    """Write the variant's requirements with hashes to its lock file, and return what it says.

    Args:
        say: is told of an index that is left out.
        title: the command that makes the file, for its first line.
        upgrade: take the newest versions that fit; without, locked ones are kept where they still fit.

    Raises:
        HarnessError: nothing fits, or the package index does not answer.
    """
    target = folder / parts.lock
    version, platform = parts.python, parts.platform
    command = [*find_uv(), "pip", "compile", "--quiet", "--generate-hashes", "--no-emit-index-url"]
    command += [
        "--no-emit-find-links",
        "--no-annotate",
        "--custom-compile-command",
        title,
    ]
    command += ["--python-version", version, "--python-platform", platform, *(["--upgrade"] if upgrade else [])]
    with tempfile.TemporaryDirectory(prefix="harness-lock-") as work:
        fresh = Path(work) / target.name
        command += _known_packages(parts, Path(work))
        if target.is_file():
            shutil.copyfile(target, fresh)  # uv keeps the versions that it finds here
        failures = []
        own = reachable(parts.extra_indexes, say)
        # An extra index of this machine that has a release for its own Python alone hides the others of that release.
        for extra in (True, False):
            try:
                run_command(
                    [
                        *command,
                        *index_options(own, extra=extra),
                        "--output-file",
                        fresh,
                        parts.requirements,
                    ],
                    cwd=folder,
                    timeout_s=_RESOLVE_SECONDS,
                    what=f"resolving {parts.requirements}",
                )
                break
            except CommandError as error:
                failures.append(error)
        else:
            first = failures[0]
            raise HarnessError(without_addresses(first.output) or first.what, where=parts.requirements) from first
        if not target.is_file() or words_digest(target) != words_digest(fresh):
            shutil.copyfile(fresh, target)
    return locked_python(folder, parts)


def _known_packages(parts: StackVariant, work: Path) -> list[str]:
    """uv's options for what the base image brings, which decides the resolution, and for what is left out of it."""
    options = [option for name in parts.left_out for option in ("--no-emit-package", name)]
    if not parts.provided:
        return options
    metadata = []
    for requirement in parts.provided:
        name, _, version = requirement.partition("==")
        # What it needs is in the image with it.
        metadata.append(f'[[dependency-metadata]]\nname = "{name}"\nversion = "{version}"\nrequires-dist = []\n')
        options += ["--no-emit-package", name]
    constraints, settings = work / "constraints.txt", work / "uv.toml"
    constraints.write_text("\n".join(parts.provided) + "\n", encoding="utf-8")
    settings.write_text("".join(metadata), encoding="utf-8")
    return [*options, "--config-file", str(settings), "--constraints", str(constraints)]


def locked_python(folder: Path, parts: StackVariant) -> LockedPython:
    """What a requirements lock file says.

    Raises:
        SpecError: there is none.
    """
    path = folder / parts.lock
    digest = words_digest(path)
    packages = dict(sorted((normal_name(n), v) for n, v in _PINNED.findall(path.read_text("utf-8"))))
    return LockedPython(file=parts.lock, sha256=digest, packages=packages)


def index_options(own: list[str], *, extra: bool = True) -> list[str]:
    """uv's options for the indexes that this machine's pip uses, and for the stack's own.

    Args:
        own: the stack's own.
        extra: with the machine's further indexes beside its main one.
    """
    settings = pip_settings()
    others = [*(settings.get("extra-index-url", "").split() if extra else []), *own]
    options = [word for address in others for word in ("--extra-index-url", address)]
    if index := settings.get("index-url"):
        options += ["--index-url", index]
    for place in settings.get("find-links", "").split():
        options += ["--find-links", place]
    # As pip does: the best version of all indexes, not the first index that knows the name.
    return [*options, "--index-strategy", "unsafe-best-match"] if others else options


def normal_name(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub("[-_.]+", "-", name).lower()


def without_addresses(text: str) -> str:
    """One line of a tool's words, without addresses and paths of this machine: it may be committed."""
    lines = [re.sub(r"^[\s×╰─▶error:]+", "", line).strip() for line in text.splitlines()]
    said = " ".join(line for line in lines if line and not line.startswith("hint"))
    said = re.sub(r"`?\b[a-z][a-z+]*://[^\s`'\")]*`?", "an address", said)
    said = re.sub(r"(?<![\w.])/(?:[\w.@+-]+/)+[\w.@+-]*", "a path", said)
    return said[:300]
