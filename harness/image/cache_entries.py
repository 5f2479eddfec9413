"""What is in a cache: each thing that can be removed alone, its size, when it was last used, what needs it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.image.cache_needs import Needs
from harness.image.leftovers import leftovers
from harness.image.stages import StageStore

Kind = Literal["stage", "base", "blob", "log", "leftover", "engine"]


@dataclass(frozen=True)
class CacheEntry:
    """A file or folder of a cache.

    Attributes:
        bytes: what it takes; a file that has a second name elsewhere frees nothing, and counts all the same.
        used_at: when a build last used it, or made it where that is not known; seconds since 1970.
        needed_by: what needs it, for people; empty: nothing of this checkout.
        note: what else there is to know.
        stays: it is never removed; ``note`` says why.
    """

    kind: Kind
    path: Path
    bytes: int
    used_at: float
    needed_by: tuple[str, ...] = ()
    note: str = ""
    stays: bool = False


def cache_entries(cache: Path, needs: Needs, linked: frozenset[tuple[int, int]] = frozenset()) -> list[CacheEntry]:
    """All that a cache holds and that builds put there. What vanishes meanwhile is left out.

    Args:
        linked: device and inode of files that published images lead to; a stage that is one of them stays.
    """
    entries = [
        *_stages(cache, needs, linked),
        *_bases(cache, needs),
        *_blobs(cache, needs),
        *_files("log", sorted(cache.glob("logs/**/*.log"))),
        *_files("leftover", [*leftovers(cache), *sorted(cache.glob("blobs/sha256/.*.part"))]),
    ]
    if (cache / "apptainer").is_dir():
        note = "the engine's own cache: apptainer cache clean"
        entries += _files("engine", [cache / "apptainer"], note=note, stays=True)
    return entries


def _stages(cache: Path, needs: Needs, linked: frozenset[tuple[int, int]]) -> Iterator[CacheEntry]:
    store = StageStore(cache / "stages")
    before = store.remembered()
    for path in sorted(store.folder.glob("[0-9a-f]*.sif")):
        needed = tuple(sorted(needs.stages.get(path.stem, ())))
        was = f"was {before[path.stem]}" if path.stem in before and not needed else ""
        for entry in _files("stage", [path], needed, was):
            is_linked = _identity(path) in linked
            note = "a published image leads to it" if is_linked else entry.note
            yield CacheEntry("stage", path, entry.bytes, entry.used_at, needed, note, is_linked)


def _bases(cache: Path, needs: Needs) -> Iterator[CacheEntry]:
    for path in sorted(cache.glob("base/*/base.json")):
        needed = tuple(sorted(needs.bases.get(path.parent.name, ())))
        yield from _files("base", [path.parent], needed)


def _blobs(cache: Path, needs: Needs) -> Iterator[CacheEntry]:
    for path in sorted(cache.glob("blobs/sha256/[0-9a-f]*")):
        yield from _files("blob", [path], tuple(sorted(needs.blobs.get(path.name, ()))))


def _files(
    kind: Kind, paths: list[Path], needed_by: tuple[str, ...] = (), note: str = "", *, stays: bool = False
) -> Iterator[CacheEntry]:
    for path in paths:
        try:
            yield CacheEntry(kind, path, _size(path), path.stat().st_mtime, needed_by, note, stays)
        except FileNotFoundError:
            continue  # removed since it was listed


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    total = 0
    for folder, _, names in os.walk(path):  # a killed build's folders may be closed to us: what is in them counts 0
        for name in names:
            try:
                total += Path(folder, name).lstat().st_size
            except FileNotFoundError:
                continue
    return total


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return status.st_dev, status.st_ino
