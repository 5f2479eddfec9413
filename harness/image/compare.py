"""What differs between two images, file by file."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.image.process import run_command
from harness.image.sif import PARTITION, SIGNATURE, Sif, read_object, read_sif

UNPACK_SECONDS = 1800.0


@dataclass(frozen=True)
class Entry:
    """What is compared of a file; ``content`` is its sha256 or its link's target."""

    kind: str
    mode: int
    owner: str
    modified: int
    content: str


def differences(one: Path, other: Path, work: Path) -> list[str]:
    """Lines such as ``etc/hosts: content`` or ``lock.json: differs``; empty for equal content.

    Needs room for both images unpacked below ``work``. Signatures are not compared. Where the file systems are equal
    byte by byte they are not unpacked.

    Raises:
        CommandError: an image cannot be unpacked. SifError: no image, or half of one.
    """
    first, second = read_sif(one), read_sif(other)
    lines = list(_object_differences(one, first, other, second))
    partitions = (first.objects(PARTITION), second.objects(PARTITION))
    if len(partitions[0]) != len(partitions[1]):
        return [*lines, f"file systems: {len(partitions[0])} and {len(partitions[1])}"]
    for a, b in zip(*partitions, strict=True):
        if _digest(one, a.offset, a.size) == _digest(other, b.offset, b.size):
            continue
        with tempfile.TemporaryDirectory(prefix="compare-", dir=work) as folder:
            trees = [_unpack(one, a.offset, Path(folder) / "a"), _unpack(other, b.offset, Path(folder) / "b")]
            found = list(compare_trees(*trees))
        lines += found or ["file system: equal files, packed in another way"]
    return lines


def compare_trees(one: Path, other: Path) -> Iterator[str]:
    """Lines for what is different in two folders."""
    first, second = _entries(one), _entries(other)
    for path in sorted(first.keys() | second.keys()):
        a, b = first.get(path), second.get(path)
        if a is None or b is None:
            yield f"{path}: only in the {'second' if a is None else 'first'}"
        elif a != b:
            names = [name for name in Entry.__dataclass_fields__ if getattr(a, name) != getattr(b, name)]
            yield f"{path}: {', '.join(names)}"


def _object_differences(one: Path, first: Sif, other: Path, second: Sif) -> Iterator[str]:
    objects = [[d for d in sif.objects() if d.kind not in (PARTITION, SIGNATURE)] for sif in (first, second)]
    if [d.name for d in objects[0]] != [d.name for d in objects[1]]:
        yield f"objects: {[d.name for d in objects[0]]} and {[d.name for d in objects[1]]}"
        return
    for a, b in zip(*objects, strict=True):
        if read_object(one, a) != read_object(other, b):
            yield f"{a.name or 'definition'}: content"


def _digest(path: Path, offset: int, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        stream.seek(offset)
        while size > 0 and (chunk := stream.read(min(size, 1 << 20))):
            digest.update(chunk)
            size -= len(chunk)
    return digest.hexdigest()


def _unpack(image: Path, offset: int, target: Path) -> Path:
    # -no-xattrs, and status 2 (some owners or device nodes could not be made): an ordinary user may compare too.
    command = ["unsquashfs", "-quiet", "-no-progress", "-no-xattrs", "-o", str(offset), "-d", str(target), str(image)]
    done = run_command(command, timeout_s=UNPACK_SECONDS, check=False, what="unpacking", where=str(image))
    if done.returncode not in (0, 2):
        run_command(command, timeout_s=UNPACK_SECONDS, what="unpacking", where=str(image))
    return target


def _entries(root: Path) -> dict[str, Entry]:
    found = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder) / name
            status = path.lstat()
            content = ""
            if stat.S_ISLNK(status.st_mode):
                content = str(path.readlink())
            elif stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK):
                content = _digest(path, 0, status.st_size)
            found[str(path.relative_to(root))] = Entry(
                stat.filemode(status.st_mode)[0],
                stat.S_IMODE(status.st_mode),
                f"{status.st_uid}:{status.st_gid}",
                int(status.st_mtime),
                content,
            )
    return found
