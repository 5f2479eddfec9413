"""The two sides of a comparison, from what a person named: lock files, images, revisions, or nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import SpecError, UserError
from harness.image.contents import read_lock
from harness.lock.diff import Contents
from harness.lock.drift import installed_in
from harness.project import VARIANTS, Project
from harness.specfile import load_spec, parse_toml, validate_spec
from harness.stack_lock import StackLock, lock_file

WORKING_TREE = "working tree"
_GIT_SECONDS = 30

FindImage = Callable[[str], Path | None]


@dataclass(frozen=True)
class Pair:
    """Two things to compare; None where one side has no such lock."""

    title: str
    one: Contents | None
    other: Contents | None


def pairs(project: Project, names: list[str], find_image: FindImage) -> list[Pair]:
    """What ``harness lock diff NAMES`` compares.

    Without names all locks of HEAD and of the working tree; with one name that and the working tree. A revision stands
    for all its locks; an image beside another image for what is in it, beside anything else for the lock inside it.

    Args:
        find_image: the image file that a person's word means, if it means one.

    Raises:
        UserError: a name means nothing, or the two cannot be compared. SpecError: a broken lock.
    """
    if len(names) > 2:
        raise UserError("lock diff compares two things", fix="name at most two lock files, images or revisions")
    files = [Path(name) if Path(name).is_file() else find_image(name) for name in names]
    if len(names) == 2 and all(files):
        return [_two_files(names, [file for file in files if file])]
    if len(names) == 1 and files[0]:
        lock = _lock_of(files[0])
        own = lock_file(project, lock.stack, lock.variant)
        theirs = Contents.of_lock(load_spec(own, StackLock)) if own.is_file() else None
        return [Pair(f"{names[0]} → {own.relative_to(project.root)}", Contents.of_lock(lock), theirs)]
    if any(files):
        raise UserError("a file and a revision cannot be compared", fix="name two files, or two revisions")
    sides = [_revision_locks(project, name) for name in names or ["HEAD"]]
    if len(sides) == 1:
        sides.append(_working_locks(project))
    titles = (names or ["HEAD"])[0], names[1] if len(names) == 2 else WORKING_TREE
    paths = sorted(sides[0].keys() | sides[1].keys())
    return [Pair(f"{path}: {titles[0]} → {titles[1]}", sides[0].get(path), sides[1].get(path)) for path in paths]


def _two_files(names: list[str], files: list[Path]) -> Pair:
    title = " → ".join(names)
    if all(file.suffix == ".sif" for file in files):
        one, other = (Contents.of_image(read_lock(file), installed_in(file)) for file in files)
    else:
        one, other = (Contents.of_lock(_lock_of(file)) for file in files)
    return Pair(title, one, other)


def _lock_of(file: Path) -> StackLock:
    if file.suffix == ".toml":
        return load_spec(file, StackLock)
    lock = read_lock(file).stack_lock
    if lock is None:
        raise UserError("its stack was not locked when it was built", where=str(file), fix="compare it with an image")
    return lock


def _working_locks(project: Project) -> dict[str, Contents]:
    found = {}
    for variant in VARIANTS:
        for path in project.stacks.glob(f"*/{variant}.lock.toml"):
            found[str(path.relative_to(project.root))] = Contents.of_lock(load_spec(path, StackLock))
    return found


def _revision_locks(project: Project, revision: str) -> dict[str, Contents]:
    """The locks of a commit, by path from the project's root."""
    commit = _git(project, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if not commit:
        raise UserError(
            f"'{revision}' is no lock file, no image and no revision",
            fix="name a *.lock.toml, an image or its tutorial, or a commit",
        )
    found = {}
    listed = _git(project, "ls-tree", "-r", "--name-only", commit.strip(), "--", "containers/") or ""
    for path in listed.splitlines():
        if path.endswith(tuple(f"/{variant}.lock.toml" for variant in VARIANTS)):
            text = _git(project, "show", f"{commit.strip()}:./{path}") or ""
            where = f"{revision}:{path}"
            found[path] = Contents.of_lock(validate_spec(parse_toml(text, where=where), StackLock, where=where))
    return found


def _git(project: Project, *words: str) -> str | None:
    """What git prints; None where it refuses.

    Raises:
        SpecError: git does not answer.
    """
    command = ["git", "-C", str(project.root), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SpecError(f"git does not answer: {error}", where=str(project.root)) from error
    return done.stdout if done.returncode == 0 else None
