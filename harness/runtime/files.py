"""Writing files that are there whole or not at all, also when the machine loses power."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replaced_whole(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose content replaces ``path`` in one move: written aside in the same folder, flushed to disk, renamed.

    A body that raises leaves ``path`` as it was.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Replace ``path`` by ``data`` in one move.

    NaN and infinity are written as Python's json does (``NaN``), which is not strict JSON; the reader is Python.
    """
    with replaced_whole(path) as stream:
        stream.write((json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())
