"""Files on disk: written so that a reader sees the old one or the new one, and read for their digest."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20


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


def write_json(path: Path, data: Mapping[str, Any]) -> Path:
    """Write a JSON object as :func:`write_whole` does."""
    return write_whole(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


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
