"""Bootstrapped base images, kept: one folder for each image::

    <cache>/base/debian-bookworm-slim-amd64/storage/     a registry's storage
    <cache>/base/debian-bookworm-slim-amd64/base.json    digest, packages, sha256 of every file of storage/
    <cache>/base/debian-bookworm-slim-amd64.lock         held while the folder is made or checked

The folder appears by rename, complete; each use checks every byte of it, and makes it anew if one is wrong. The time
of ``base.json`` is when it was made, that of its folder when it was last used.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.files import sha256_of
from harness.image.bootstrap import RECIPE, Bootstrapped, make_base, remove_work
from harness.image.debian import DebianTarget
from harness.image.process import LineCallback


class BaseCache:
    """The cache folder of one target."""

    def __init__(self, cache_dir: Path, target: DebianTarget) -> None:
        self.target = target
        self.parent = cache_dir.absolute() / "base"
        self.key = f"debian-{target.tag}-{target.architecture}"
        self.folder = self.parent / self.key
        self.storage = self.folder / "storage"

    def read(self) -> Bootstrapped | None:
        """The entry if it is complete and every byte is as it was written (some 0.1 s); else None."""
        try:
            entry = Bootstrapped(**json.loads((self.folder / "base.json").read_text("utf-8")))
            if entry.recipe != RECIPE or not entry.files:
                return None
            intact = all(sha256_of(self.storage / name) == digest for name, digest in entry.files.items())
        except (OSError, ValueError, TypeError, AttributeError):
            return None
        if not intact:
            return None
        with contextlib.suppress(OSError):  # a colleague's, or a cache that cannot be written: its age is another
            os.utime(self.folder)
        return entry

    @property
    def made_on(self) -> str | None:
        """The day it was made, ISO 8601, UTC; None where there is none."""
        made_at = self._made_at()
        return str(datetime.datetime.fromtimestamp(made_at / 1e9, datetime.timezone.utc).date()) if made_at else None

    def drop(self, say: LineCallback) -> None:
        """Remove it: the registries are asked again, and what they have is used."""
        self.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(say):
            self._sweep()
            old = self.parent / f".{self.key}-old"
            if self.folder.exists():
                self.folder.rename(old)
            shutil.rmtree(old, ignore_errors=True)

    def fill(self, refresh: bool, say: LineCallback) -> Bootstrapped:
        """Make the folder, unless another process made it while we waited for the lock."""
        self.parent.mkdir(parents=True, exist_ok=True)
        before = self._made_at()
        with self._lock(say):
            self._sweep()
            # A refresh is content with what somebody else finished while we waited.
            fresh = not refresh or self._made_at() != before
            if fresh and (entry := self.read()):
                return entry
            work = Path(tempfile.mkdtemp(prefix=f".{self.key}-", dir=self.parent))
            try:
                entry = make_base(self.target, work, say)
                (work / "base.json").write_text(json.dumps(entry.__dict__, indent=1, sort_keys=True), "utf-8")
                work.chmod(0o755)
                self._replace_folder(work)
            finally:
                remove_work(work)
            return entry

    def _made_at(self) -> int | None:
        try:
            return (self.folder / "base.json").stat().st_mtime_ns
        except OSError:
            return None

    @contextlib.contextmanager
    def _lock(self, say: LineCallback) -> Iterator[None]:
        """Held by one process at a time; the kernel lets go of it when the process ends, however it ends."""
        with (self.parent / f"{self.key}.lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another process makes {self.key}; waiting for it")
                fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _sweep(self) -> None:
        """Remove what killed processes left; the lock says that none of them is at work."""
        for left in self.parent.glob(f".{self.key}-*"):
            remove_work(left)

    def _replace_folder(self, work: Path) -> None:
        """Put ``work`` in the folder's place. A registry that still serves the old one keeps its open files only,
        so a reader may have to start over: a broken or refreshed base is worth that."""
        old = self.parent / f".{self.key}-old"
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(old)
        work.rename(self.folder)
        shutil.rmtree(old, ignore_errors=True)
