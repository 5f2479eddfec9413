"""Files on disk: written so that a reader sees the old one or the new one, and read for their digest."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20
_WRITERS = 16


def write_whole(path: Path, text: str, *, durable: bool = True) -> Path:
    """Write UTF-8 text atomically; parent folders are made.

    Args:
        durable: it outlives a power failure too. What can be made again from other files need not wait for the disk.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    if durable:
        fsync_folder(path.parent)
    return path


def write_together(texts: Mapping[Path, str]) -> None:
    """Write many small files as :func:`write_whole` does, durably, in about the time of a few.

    Waiting for the disk is what a durable file costs (10 ms); a file system commits in one go what waits together.

    Raises:
        OSError: one cannot be written; others may have been.
    """
    with ThreadPoolExecutor(_WRITERS) as pool:
        for written in [pool.submit(write_whole, path, text) for path, text in texts.items()]:
            written.result()


def json_text(data: Mapping[str, Any]) -> str:
    """A JSON object as our records hold it."""
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def write_json(path: Path, data: Mapping[str, Any]) -> Path:
    """Write a JSON object as :func:`write_whole` does."""
    return write_whole(path, json_text(data))


def sha256_of(path: Path) -> str:
    """sha256 of a file's content, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def utc_now() -> str:
    """The time, for people to read: UTC, ISO 8601, in seconds."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def fsync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
