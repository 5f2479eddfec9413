"""The files an image was made from, inside the image: with them it can be built again without any checkout."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from harness.definition.model import Definition
from harness.definition.shell import quote
from harness.definition.tutorial_image import copied_paths
from harness.errors import HarnessError
from harness.project import Project, Variant
from harness.specfile import load_spec
from harness.stack import Stack, load_stack
from harness.stack_lock import lock_file
from harness.tutorial import Tutorial

SEARCHED_COMMITS = 500
"""Commits that are asked whether they hold an image's files: the newest of those that touched one."""

_GIT_SECONDS = 30


class SourceFile(BaseModel):
    """One file; ``base64`` where its bytes are no text; ``link`` where it is a link: what it leads to."""

    model_config = ConfigDict(frozen=True)
    text: str | None = None
    base64: str | None = None
    executable: bool = False
    link: str | None = None

    @model_serializer(mode="wrap")
    def _as_before_links(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """What is no link is written as it was when links were not kept: images stay equal to the byte."""
        data: dict[str, object] = handler(self)
        if self.link is None:
            del data["link"]
        return data

    @classmethod
    def read(cls, path: Path) -> SourceFile:
        """Read one from the disk."""
        data, executable = path.read_bytes(), bool(path.stat().st_mode & 0o100)
        try:
            return cls(text=data.decode("utf-8"), executable=executable)
        except UnicodeDecodeError:
            return cls(base64=base64.b64encode(data).decode("ascii"), executable=executable)

    @classmethod
    def read_link(cls, path: Path) -> SourceFile:
        """Read what a link says."""
        return cls(link=str(path.readlink()))

    @property
    def data(self) -> bytes:
        """Its bytes; of a link, what it leads to, as git has it."""
        if self.link is not None:
            return self.link.encode("utf-8")
        return base64.b64decode(self.base64) if self.base64 is not None else (self.text or "").encode("utf-8")

    def is_at(self, path: Path) -> bool:
        """Does ``path`` hold the same, as far as git keeps it?"""
        if self.link is not None:
            return path.is_symlink() and SourceFile.read_link(path) == self
        return path.is_file() and SourceFile.read(path) == self


def made_from(project: Project, tutorial: Tutorial, variant: Variant, definition: Definition) -> dict[str, SourceFile]:
    """What ``definition`` is written from and what it copies; by path from the checkout's root."""
    folder = project.stack_folder(tutorial.stack)
    parts = load_stack(project, tutorial.stack).variants[variant]
    dockerfile = folder / parts.dockerfile
    paths = {
        project.tutorial_file(tutorial.id),
        folder / "stack.toml",
        dockerfile,
        folder / parts.lock,
        *(
            f
            for f in (folder / ".dockerignore", dockerfile.with_name(f"{dockerfile.name}.dockerignore"))
            if f.is_file()
        ),
        *(f for f in (lock_file(project, tutorial.stack, variant),) if f.is_file()),
    }
    layers = [*definition.layers, *(layer for stage in definition.stages for layer in stage.layers)]
    for copied in (c for layer in layers for c in layer.files if c.stage is None):
        paths.update(copied_paths(project.root, copied.source))
    files = {path: SourceFile.read(path) for path in paths}
    commands = [command for layer in layers for command in layer.commands]
    for link in sorted(path for path in folder.rglob("*") if path.is_symlink() and path not in files):
        if _is_made(link, commands) or _leads_to_one(link, folder, paths):
            files[link] = SourceFile.read_link(link)
    return {str(path.relative_to(project.root)): files[path] for path in sorted(files)}


def _is_made(link: Path, commands: list[str]) -> bool:
    """Whether a definition makes a link of the context: %files would follow it, so %post says ``ln -s``."""
    start = f"ln -s {quote(str(link.readlink()))} "
    return any(command.startswith(start) and link.name in command[len(start) :] for command in commands)


def _leads_to_one(link: Path, context: Path, paths: set[Path]) -> bool:
    """Whether COPY may have named what is copied by this link: a definition names what the link leads to."""
    real = link.resolve()
    return real.is_relative_to(context.resolve()) and any(path.resolve().is_relative_to(real) for path in paths)


def write_project(files: Mapping[str, SourceFile], folder: Path) -> Project:
    """A project that holds ``files`` alone: enough to build the image that they come from.

    Raises:
        HarnessError: a path leads out of the folder.
    """
    for name, file in files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise HarnessError(f"'{name}' is no path in a checkout", fix="the image was not made by this project")
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.link is None:
            path.write_bytes(file.data)
            path.chmod(0o755 if file.executable else 0o644)
    for stack in folder.glob("containers/*/stack.toml"):
        for parts in load_spec(stack, Stack).variants.values():  # a stack names the files of all its variants
            for name in (parts.dockerfile, parts.lock):
                (stack.parent / name).touch()
    for name, file in files.items():  # last: nothing is written through a link, wherever it leads
        if file.link is not None:
            if (folder / name).exists():
                raise HarnessError(f"'{name}' is a link and a folder", fix="the image was not made by this project")
            (folder / name).symlink_to(file.link)
    return Project(folder)


def changed_files(files: Mapping[str, SourceFile], root: Path) -> list[str]:
    """Paths that are missing below ``root`` or hold something else than ``files`` say."""
    return [name for name, file in files.items() if not file.is_at(root / name)]


def find_revision(files: Mapping[str, SourceFile], root: Path) -> str | None:
    """The newest commit that holds all ``files`` as they are; None where there is none, or no git."""
    wanted = {name: _blob(file.data) for name, file in files.items()}
    found = _git(root, "log", "--all", "--format=%H", f"--max-count={SEARCHED_COMMITS}", "--", *wanted)
    commits = [*_git(root, "rev-parse", "HEAD"), *found]
    for commit in commits:
        tree = {}
        for line in _git(root, "ls-tree", "-r", commit, "--", *wanted):
            facts, _, name = line.partition("\t")
            tree[name] = facts.split()[2]
        if tree == wanted:
            return commit
    return None


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _git(root: Path, *words: str) -> list[str]:
    command = ["git", "-C", str(root), "-c", "core.quotePath=false", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []  # where there is no git there is no revision to name
    return done.stdout.splitlines() if done.returncode == 0 else []
