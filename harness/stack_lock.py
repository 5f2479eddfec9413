"""What a stack's variant was resolved to: ``containers/<stack>/<variant>.lock.toml``, committed beside what it locks.

This is the file alone: its model, reading it, and writing it so that a diff of two versions reads well. Who makes it
is :mod:`harness.lock`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from harness.project import Project, Variant
from harness.specfile import SpecModel, load_spec

Part = Literal["base", "apt", "python"]


class LockedInputs(SpecModel):
    """What a lock was resolved from, so that it can be said, without any network, whether it still holds.

    Attributes:
        base: the image reference of the Dockerfile's last FROM.
        apt: the apt-get commands of the Dockerfile that change what is installed.
        python: version and platform that packages were resolved for.
        files: sha256 of the requirement files (their words, not their comments) and of files that steer apt.
    """

    base: str
    apt: list[str] = Field(default_factory=list)
    python: str
    files: dict[str, str] = Field(default_factory=dict)


class LockedBase(SpecModel):
    """The base image.

    Attributes:
        digest: of the manifest (or index) at a registry; None for a bootstrapped base, whose digest is its machine's.
        suite, releases: of a bootstrapped base: Debian's codename, and the dates of the package lists.
        packages: Debian packages in it, name to version, where they are known.
        python: Python packages in a registry's base that Debian's packages did not bring, name to version (or to all
            that are there, with commas); None where nobody could look. A bootstrapped base has none.
    """

    origin: Literal["registry", "bootstrapped"]
    digest: str | None = None
    suite: str | None = None
    releases: dict[str, str] = Field(default_factory=dict)
    packages: dict[str, str] = Field(default_factory=dict)
    python: dict[str, str] | None = None


class LockedDeb(SpecModel):
    """A Debian package that the Dockerfile adds to its base; ``sha256`` is the archive's own word for the file."""

    version: str
    architecture: str
    sha256: str


class LockedPython(SpecModel):
    """The Python packages; their hashes are in ``file``, which pip installs from."""

    file: str
    sha256: str
    packages: dict[str, str] = Field(default_factory=dict)


class StackLock(SpecModel):
    """A lock file.

    Attributes:
        base, python: None where they could not be resolved.
        apt: None where it could not be resolved; empty where the Dockerfile installs nothing.
        tools: versions of the programs that resolved it.
        unresolved: part to the reason.
    """

    schema_version: Literal[1] = 1
    stack: str
    variant: Variant
    inputs: LockedInputs
    base: LockedBase | None = None
    apt: dict[str, LockedDeb] | None = None
    python: LockedPython | None = None
    tools: dict[str, str] = Field(default_factory=dict)
    unresolved: dict[Part, str] = Field(default_factory=dict)


def lock_file(project: Project, stack: str, variant: Variant) -> Path:
    """Where the lock of a stack's variant is committed."""
    return project.stack_folder(stack) / f"{variant}.lock.toml"


def read_stack_lock(project: Project, stack: str, variant: Variant) -> StackLock | None:
    """The committed lock; None where the stack was never locked.

    Raises:
        SpecError: the file is broken.
    """
    path = lock_file(project, stack, variant)
    return load_spec(path, StackLock) if path.is_file() else None


def summary(lock: StackLock) -> str:
    """What a lock holds, in one line."""
    parts = [f"base {lock.base.origin if lock.base else 'unresolved'}"]
    for name, packages in (("apt", lock.apt), ("python", lock.python.packages if lock.python else None)):
        parts.append(f"{name} {'unresolved' if packages is None else len(packages)}")
    return ", ".join(parts)


def write_lock_text(lock: StackLock) -> str:
    """The lock as TOML: one line for each package, in the order of names."""
    name = f"{lock.stack} --variant {lock.variant}"
    lines = [f"# Written by `harness lock {name}`: what docs/locks.md explains. Do not edit."]
    lines += [f"schema_version = {lock.schema_version}", f"stack = {_text(lock.stack)}"]
    lines += [f"variant = {_text(lock.variant)}"]
    if lock.unresolved:
        lines += _table("unresolved", {str(part): why for part, why in lock.unresolved.items()})
    lines += ["", "[inputs]", f"base = {_text(lock.inputs.base)}", f"python = {_text(lock.inputs.python)}"]
    lines += ["apt = [", *(f"    {_text(command)}," for command in lock.inputs.apt), "]"] if lock.inputs.apt else []
    lines += _table("inputs.files", lock.inputs.files) + _table("tools", lock.tools)
    if lock.base is not None:
        values = {"origin": lock.base.origin, "digest": lock.base.digest, "suite": lock.base.suite}
        lines += _table("base", {key: value for key, value in values.items() if value is not None})
        lines += _table("base.releases", lock.base.releases) + _table("base.packages", lock.base.packages)
        if lock.base.python is not None:  # also an empty table says something: somebody looked
            lines += _table("base.python", lock.base.python) or ["", "[base.python]"]
    if lock.apt is not None:
        lines += ["", "[apt]"]
        for package, deb in sorted(lock.apt.items()):
            fields = ", ".join(f"{key} = {_text(value)}" for key, value in deb.model_dump().items())
            lines.append(f"{_key(package)} = {{ {fields} }}")
    if lock.python is not None:
        lines += _table("python", {"file": lock.python.file, "sha256": lock.python.sha256})
        lines += _table("python.packages", lock.python.packages)
    return "\n".join(lines) + "\n"


def _table(name: str, values: dict[str, str]) -> list[str]:
    return ["", f"[{name}]", *(f"{_key(key)} = {_text(value)}" for key, value in values.items())] if values else []


def _key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() and name.isascii() else _text(name)


def _text(value: str) -> str:
    # A JSON string is a TOML basic string, but for DEL, which neither a version nor a path holds.
    return json.dumps(value, ensure_ascii=False)
