"""Files of the cache that a process needs: nobody removes them before it ends, however it ends.

A process that found or made a file holds it with a shared ``flock`` on the file itself; who removes files asks for the
exclusive one and does not wait. The kernel lets go of both when a process ends, ``kill -9`` included, and nothing is
left on disk. The cache is on a local disk, where ``flock`` reaches all who use it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import BinaryIO


class HeldFiles:
    """What this process holds."""

    def __init__(self) -> None:
        self._streams: dict[Path, BinaryIO] = {}

    def hold(self, path: Path) -> bool:
        """Keep a file from being removed, and note the time as that of its last use; False where it is not there."""
        if path in self._streams and _is_still(self._streams[path], path):
            return True
        try:
            stream = path.open("rb")
        except FileNotFoundError:
            return False
        fcntl.flock(stream, fcntl.LOCK_SH)  # waits for the few microseconds in which somebody removes the file
        if not _is_still(stream, path):
            stream.close()
            return False
        with contextlib.suppress(PermissionError):  # a colleague's file: its age is when it was made
            os.utime(path)
        self._streams[path] = stream
        return True

    def rename(self, path: Path, target: Path) -> None:
        """Give a finished file its name; it is held all the while.

        Raises:
            FileNotFoundError: it is not there.
        """
        self.hold(path)
        path.replace(target)
        self._streams[target] = self._streams.pop(path)


def is_held(path: Path) -> bool:
    """Whether another process needs the file just now."""
    with path.open("rb") as stream:
        return not _try_lock(stream)


def remove_unless_held(path: Path) -> bool:
    """Remove a file that no process needs; False where one does. A file that is gone already is no error."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return True
    with stream:
        if not _try_lock(stream):
            return False
        path.unlink(missing_ok=True)
    return True


def _try_lock(stream: BinaryIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(stream: BinaryIO, path: Path) -> bool:
    """Whether the name leads to the opened file still."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
