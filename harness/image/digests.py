"""Digests of files, remembered: a file that has not been touched since is not read again.

A file counts as untouched while path, size, inode, time of change and time of status change are the same. The last one
moves with every write and cannot be set back without moving the machine's clock. What the answer is used for is "there
is nothing to do"; whatever runs an image still reads every byte of it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.files import sha256_of, write_json

SETTLED_NS = 1_000_000_000
"""A file changed less than this ago may change again within one tick of its file system's clock: not remembered."""

_VERSION = 1


@dataclass
class FileDigests:
    """The memory, one JSON file. Processes that write it side by side lose an entry, never gain a wrong one."""

    file: Path
    _known: dict[str, list[object]] = field(default_factory=dict)
    _is_changed: bool = False

    @classmethod
    @contextmanager
    def opened(cls, file: Path, say: Callable[[str], None]) -> Iterator[FileDigests]:
        """Read the file, where it is there and whole; write it back in the end where something was added.

        Args:
            say: is told where it cannot be written: then the next one reads all files again, and nothing else is lost.
        """
        digests = cls(file)
        try:
            read = json.loads(file.read_text(encoding="utf-8"))
            if read.get("version") == _VERSION:
                digests._known = dict(read["files"])
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            digests._known = {}  # a memory that cannot be read is an empty one
        try:
            yield digests
        finally:
            try:
                digests._save()
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                say(f"note: {file}: digests of files cannot be remembered: {reason}")

    def __call__(self, path: Path) -> str:
        """sha256 of the file's content, hex.

        Raises:
            OSError: it cannot be read.
        """
        name = str(path.absolute())
        before = _facts(path)
        known = self._known.get(name)
        if known is not None and known[:-1] == before:
            return str(known[-1])
        digest = sha256_of(path)
        if _facts(path) == before and time.time_ns() - path.stat().st_ctime_ns > SETTLED_NS:
            self._known[name] = [*before, digest]
            self._is_changed = True
        return digest

    def _save(self) -> None:
        if not self._is_changed:
            return
        files = {name: entry for name, entry in self._known.items() if os.path.lexists(name)}
        write_json(self.file, {"version": _VERSION, "files": files})


def _facts(path: Path) -> list[object]:
    found = path.stat()
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
