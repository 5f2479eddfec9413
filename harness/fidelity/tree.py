"""File trees from tar streams, and how two of them differ."""

from __future__ import annotations

import hashlib
import posixpath
import re
import tarfile
from dataclasses import dataclass
from typing import IO

# Paths that differ although nothing of the Dockerfile is in them, each with its reason.
GENERATED = {
    r"\.dockerenv": "Docker's mark of a container",
    r"(dev|proc|sys)(/.*)?": "filled by the kernel and the engine when an image starts",
    r"etc/(hosts|hostname|resolv\.conf|mtab)": "written by the engine when an image starts",
    r"\.singularity\.d(/.*)?|\.(exec|run|shell|test)|singularity|environment": "Apptainer's scripts",
    r"etc/ld\.so\.cache|var/cache/ldconfig(/.*)?": "holds the inode numbers of the machine that built it",
}
_GENERATED = re.compile("|".join(f"(?:{pattern})" for pattern in GENERATED))


@dataclass(frozen=True)
class Entry:
    """What is compared of one path: type, permission bits, owner, content (sha256) or link target."""

    kind: str
    mode: int
    owner: tuple[int, int]
    content: str = ""

    def differences(self, wanted: Entry) -> list[str]:
        """Words for what is not as ``wanted``."""
        if self.kind != wanted.kind:
            return [f"{self.kind}, not {wanted.kind}"]
        words = []
        if self.mode != wanted.mode:
            words.append(f"mode {self.mode:04o}, not {wanted.mode:04o}")
        if self.owner != wanted.owner:
            words.append(f"owner {self.owner[0]}:{self.owner[1]}, not {wanted.owner[0]}:{wanted.owner[1]}")
        if self.content != wanted.content:
            words.append("other content" if self.kind == "file" else f"{self.content}, not {wanted.content}")
        return words


def read_tree(stream: IO[bytes]) -> dict[str, Entry]:
    """Every path of a tar stream but the generated ones."""
    entries: dict[str, Entry] = {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            path = posixpath.normpath(member.name).lstrip("/")
            if path != ".":
                entries[path] = _entry(archive, member, entries)
    return {path: entry for path, entry in entries.items() if not _GENERATED.fullmatch(path)}


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo, entries: dict[str, Entry]) -> Entry:
    owner, mode = (member.uid, member.gid), member.mode & 0o7777
    if member.islnk():  # one of several names of a file; which of them comes first is chance
        return entries[posixpath.normpath(member.linkname).lstrip("/")]
    if member.issym():
        return Entry("link", 0, owner, member.linkname)
    if member.isdir():
        return Entry("folder", mode, owner)
    content = archive.extractfile(member) if member.isfile() else None
    if content is None:
        return Entry("special", mode, owner, f"{member.type!r} {member.devmajor}:{member.devminor}")
    return Entry("file", mode, owner, hashlib.sha256(content.read()).hexdigest())


def compare_trees(wanted: dict[str, Entry], found: dict[str, Entry]) -> list[str]:
    """One line for each path that is not as ``wanted``; none: the trees are the same."""
    lines = [f"/{path} is missing" for path in sorted(wanted.keys() - found.keys())]
    lines += [f"/{path} is too many" for path in sorted(found.keys() - wanted.keys())]
    for path in sorted(wanted.keys() & found.keys()):
        lines += [f"/{path}: {words}" for words in found[path].differences(wanted[path])]
    return lines
