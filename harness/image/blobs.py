"""Files of images by their digest: ``<cache>/blobs/sha256/<hex>``, each complete and checked, or not there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

from harness.errors import HarnessError
from harness.files import sha256_of


class BlobStore:
    """A folder of blobs; any number of processes and threads may share it."""

    def __init__(self, cache: Path) -> None:
        self.folder = cache.absolute() / "blobs" / "sha256"
        self._checked: set[str] = set()

    def find(self, digest: str) -> Path | None:
        """The blob's file, if it is there. Its bytes are checked once by each process; a damaged one is removed."""
        path = self.folder / digest.removeprefix("sha256:")
        if not is_sha256(digest) or not path.is_file():
            return None
        if digest not in self._checked:
            if f"sha256:{sha256_of(path)}" != digest:
                path.unlink(missing_ok=True)
                return None
            self._checked.add(digest)
            with contextlib.suppress(OSError):  # a colleague's, or a cache that cannot be written: its age is another
                os.utime(path)  # used now: see `harness cache gc`
        return path

    @contextlib.contextmanager
    def filling(self, digest: str, on_wait: Callable[[], None]) -> Iterator[PartialBlob]:
        """A blob to write, for the one writer that there is at a time; nothing of it stays unless it is kept.

        Args:
            on_wait: called before waiting for another writer.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / _hex(digest)
        with (self.folder / f".{target.name}.lock").open("w") as lock:
            try:  # the kernel lets go of the lock however the process ends
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(lock, fcntl.LOCK_EX)
            part = target.with_name(f".{target.name}.part")  # a killed writer's is overwritten
            with part.open("w+b", buffering=0) as stream:
                try:
                    yield PartialBlob(stream, part, target)
                finally:
                    part.unlink(missing_ok=True)


class PartialBlob:
    """A blob while it is written: its bytes so far, and their hash."""

    def __init__(self, stream: FileIO, part: Path, target: Path) -> None:
        self._stream, self._part, self._target = stream, part, target
        self.restart()

    def restart(self) -> None:
        """Forget all bytes."""
        self._stream.seek(0)
        self._stream.truncate()
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, chunk: bytes) -> None:
        """Add bytes.

        Raises:
            HarnessError: the disk is full, or broken; not OSError, which is what a broken connection raises.
        """
        with self._disk_errors():
            left = memoryview(chunk)
            while left:
                left = left[self._stream.write(left) :]
        self._hash.update(chunk)
        self.size += len(chunk)

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def keep(self) -> Path:
        """Publish the blob: from now on others find it.

        Raises:
            HarnessError: as :meth:`write`.
        """
        with self._disk_errors():
            os.fsync(self._stream.fileno())
            self._part.rename(self._target)
        return self._target

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            fix = "free some, or set HARNESS_CACHE to a larger disk"
            raise HarnessError(f"{reason} while storing a base image", where=str(self._part.parent), fix=fix) from error


def is_sha256(text: str) -> bool:
    """Is this a ``sha256:…`` digest? Other algorithms are not in use."""
    return re.fullmatch(r"sha256:[0-9a-f]{64}", text) is not None


def _hex(digest: str) -> str:
    """The file name for a digest.

    Raises:
        ValueError: it is none of sha256.
    """
    if not is_sha256(digest):
        raise ValueError(f"{digest!r} is no sha256 digest")
    return digest.removeprefix("sha256:")
