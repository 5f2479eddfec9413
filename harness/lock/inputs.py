"""What a lock is made from, read from the checkout alone: no network, no tools, the same on every machine."""

from __future__ import annotations

import hashlib
import posixpath
import re
from pathlib import Path

from harness.definition.context import Context
from harness.definition.dockerfile import Instruction, read_dockerfile
from harness.definition.tutorial_image import default_base, stack_definition
from harness.errors import SpecError
from harness.lock.apt_commands import UnreadableCommandError, apt_commands, apt_files
from harness.project import Project, Variant
from harness.stack import Stack, StackVariant
from harness.stack_lock import LockedInputs, StackLock

_INCLUDED = re.compile(r"^(?:-r|-c|--requirement|--constraint)[ =]\s*(\S+)")


def current_inputs(project: Project, stack: Stack, variant: Variant) -> LockedInputs:
    """What a lock made now would be made from.

    Raises:
        SpecError: no such variant, a Dockerfile that cannot be read, a requirement file that is not there.
    """
    definition = stack_definition(project, stack, variant)  # also says whether there is such a variant
    parts, folder = stack.variants[variant], project.stack_folder(stack.name)
    instructions = stack_dockerfile(project, stack, variant)
    try:
        apt = [str(command) for command in apt_commands(instructions)]
    except UnreadableCommandError as error:
        apt = [f"not readable: {error.what}"]
    names = [
        *requirement_files(folder, parts.requirements),
        *(source for source, _ in copied_to_apt(project, stack, variant)),
    ]
    files = {name: words_digest(folder / name) for name in sorted(set(names))}
    return LockedInputs(base=default_base(definition), apt=apt, python=python_target(parts), files=files)


def stack_dockerfile(project: Project, stack: Stack, variant: Variant) -> list[Instruction]:
    """The instructions of a variant's Dockerfile; positions are named from the checkout's root."""
    path = project.stack_folder(stack.name) / stack.variants[variant].dockerfile
    return read_dockerfile(path, str(path.relative_to(project.root)))


def copied_to_apt(project: Project, stack: Stack, variant: Variant) -> list[tuple[str, str]]:
    """(source, target) of the stack's files that its Dockerfile brings to apt's own folders.

    Raises:
        SpecError: one is not there.
    """
    folder = project.stack_folder(stack.name)
    context = Context.of(folder, "", dockerfile=folder / stack.variants[variant].dockerfile)
    return apt_files(stack_dockerfile(project, stack, variant), context)


def python_target(parts: StackVariant) -> str:
    """For whom Python packages are resolved, such as ``3.11 x86_64-manylinux_2_35``, and what is there already."""
    provided = f" with {' '.join(parts.provided)}" if parts.provided else ""
    left_out = f" without {' '.join(parts.left_out)}" if parts.left_out else ""
    return f"{parts.python} {parts.platform}{provided}{left_out}"


def provided_by(target: str) -> dict[str, str]:
    """Name to version of what :func:`python_target` says is there already."""
    found = re.search(r" with (.*?)(?: without |$)", target)
    pins = (pin.partition("==") for pin in (found[1].split() if found else ()))
    return {re.sub("[-_.]+", "-", name).lower(): version for name, _, version in pins}


def requirement_files(folder: Path, name: str) -> list[str]:
    """A requirements file and those that it includes, relative to ``folder``.

    Raises:
        SpecError: one is not there.
    """
    found: list[str] = []
    waiting = [posixpath.normpath(name)]
    while waiting:
        current = waiting.pop(0)
        if current in found:
            continue
        found.append(current)
        for line in _lines(folder / current):
            if included := _INCLUDED.match(line):
                waiting.append(posixpath.normpath(posixpath.join(posixpath.dirname(current), included[1])))
    return found


def words_digest(path: Path) -> str:
    """sha256 of a file's lines without comments and blanks: a better comment makes no lock stale.

    Raises:
        SpecError: there is no such file.
    """
    return hashlib.sha256("\n".join(_lines(path)).encode()).hexdigest()


def input_drift(lock: StackLock, now: LockedInputs) -> list[str]:
    """One line for each input that is not what ``lock`` was made from."""
    old = lock.inputs
    lines = []
    if old.base != now.base:
        lines.append(f"base: the Dockerfile now stands on {now.base}, locked is {old.base}")
    if old.python != now.python:
        lines.append(f"python: stack.toml now says {now.python}, locked is {old.python}")
    lines += [f"apt: the Dockerfile now also says 'apt-get {c}'" for c in now.apt if c not in old.apt]
    lines += [f"apt: the Dockerfile no longer says 'apt-get {c}'" for c in old.apt if c not in now.apt]
    if not lines and old.apt != now.apt:
        lines.append("apt: the Dockerfile's apt-get commands have another order")
    for name in sorted(old.files.keys() | now.files.keys()):
        if name not in old.files or name not in now.files:
            lines.append(f"{name}: {'new' if name in now.files else 'gone'} since it was locked")
        elif old.files[name] != now.files[name]:
            lines.append(f"{name}: changed since it was locked")
    return lines


def lock_drift(project: Project, stack: Stack, lock: StackLock) -> list[str]:
    """As :func:`input_drift`, and whether the requirements that pip installs are those that were locked."""
    lines = input_drift(lock, current_inputs(project, stack, lock.variant))
    if lock.python is not None:
        path = project.stack_folder(stack.name) / lock.python.file
        if not path.is_file():
            lines.append(f"{lock.python.file}: gone since it was locked")
        elif words_digest(path) != lock.python.sha256:
            lines.append(f"{lock.python.file}: edited since it was locked")
    return lines


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise SpecError("no such file", where=str(path)) from None
    except UnicodeDecodeError:
        return [hashlib.sha256(path.read_bytes()).hexdigest()]  # a key: its bytes are all of it
    stripped = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in text.splitlines())
    return [line for line in stripped if line]
