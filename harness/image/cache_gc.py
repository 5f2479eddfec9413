"""Removing from a cache what has not been used for long, or what makes it larger than it may be.

Safe beside running builds: a stage that one of them builds upon is held (:mod:`harness.image.held`), a base is removed
under the lock it is made under, and whoever finds a part of an image missing fetches it again. Each thing vanishes in
one step or is a leftover that the next run removes, so a ``kill -9`` leaves nothing half.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.image.cache_entries import CacheEntry
from harness.image.held import is_held, remove_unless_held
from harness.image.leftovers import remove_leftover


def trim(
    entries: Iterable[CacheEntry], now: float, *, keep_s: float, max_bytes: int | None = None, remove: bool
) -> Iterator[CacheEntry]:
    """Remove leftovers, then what nothing needs and nobody used for ``keep_s``; then, down to ``max_bytes``, more.

    The last step takes what was used longest ago first, and what a definition of the checkout needs only when nothing
    else is left; base images that are needed stay, for they cannot be made again without a network.

    Args:
        now: seconds since 1970.
        keep_s: seconds.
        max_bytes: of all entries together; None: any size.
        remove: False to change nothing and only say what would go.

    Yields:
        What was removed. What a running build holds is passed over.

    Raises:
        OSError: something may not be removed by this person.
    """
    left = sorted(entries, key=lambda entry: (entry.kind != "leftover", bool(entry.needed_by), entry.used_at))
    total = sum(entry.bytes for entry in left)
    for entry in left:
        is_old = entry.kind == "leftover" or (not entry.needed_by and now - entry.used_at > keep_s)
        is_too_much = max_bytes is not None and total > max_bytes and _gives_room(entry)
        if entry.stays or not (is_old or is_too_much):
            continue
        if _remove(entry.path, entry.kind) if remove else _is_free(entry):
            total -= entry.bytes
            yield entry


def _gives_room(entry: CacheEntry) -> bool:
    """Not a log, and not what would have to be fetched again."""
    return entry.kind == "stage" or (entry.kind in ("base", "blob") and not entry.needed_by)


def _is_free(entry: CacheEntry) -> bool:
    try:
        return entry.kind != "stage" or not is_held(entry.path)
    except FileNotFoundError:
        return False


def _remove(path: Path, kind: str) -> bool:
    if kind == "stage":
        return remove_unless_held(path)
    if kind == "base":
        return _remove_base(path)
    if kind == "leftover" and path.suffix == ".part":
        return _remove_part(path)
    remove_leftover(path)
    return True


def _remove_base(folder: Path) -> bool:
    """Under the lock of :mod:`harness.image.base_cache`; first renamed to what its sweep takes for a killed maker's."""
    with _locked(folder.with_name(f"{folder.name}.lock")) as is_mine:
        if is_mine:
            aside = folder.with_name(f".{folder.name}-old")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
    return is_mine


def _remove_part(part: Path) -> bool:
    """The bytes so far of a part that somebody may be fetching; see :mod:`harness.image.blobs`."""
    with _locked(part.with_suffix(".lock")) as is_mine:
        if is_mine:
            part.unlink(missing_ok=True)
    return is_mine


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[bool]:
    with lock.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
