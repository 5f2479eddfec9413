"""What a repository of a hub holds, and how a file is told from a damaged one."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from harness.runtime.errors import DataError

Algorithm = Literal["sha256", "git-sha1", "md5"]
Kind = Literal["model", "dataset"]
_CHUNK_BYTES = 1 << 20
_DIGITS: dict[Algorithm, int] = {"sha256": 64, "git-sha1": 40, "md5": 32}


class Digest(NamedTuple):
    """A checksum. ``git-sha1`` is git's name of a blob: the SHA-1 of its size and its content."""

    algorithm: Algorithm
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @property
    def blob_name(self) -> str:
        """How Hugging Face's client names a file of that content; MD5, which hubs do not use, says its name."""
        return f"md5-{self.hex}" if self.algorithm == "md5" else self.hex

    @classmethod
    def parse(cls, text: str) -> Digest:
        """``sha256:…``, ``git-sha1:…`` or ``md5:…``; ValueError for anything else."""
        for algorithm, digits in _DIGITS.items():
            if re.fullmatch(rf"{algorithm}:[0-9a-f]{{{digits}}}", text):
                return cls(algorithm, text.partition(":")[2])
        raise ValueError(f"'{text}' is no checksum; valid: sha256:, git-sha1: or md5: and its hexadecimal digits")

    @classmethod
    def of_blob_name(cls, name: str) -> Digest | None:
        """The checksum that a blob's name is; None where it is none."""
        for text in (f"sha256:{name}", f"git-sha1:{name}", name.replace("-", ":", 1)):
            try:
                return cls.parse(text)
            except ValueError:
                continue
        return None


class Hasher:
    """A checksum of bytes that come in pieces; ``size`` is that of all of them, which git's begins with."""

    def __init__(self, algorithm: Algorithm, size: int) -> None:
        self._algorithm: Algorithm = algorithm
        self._hash = hashlib.new("sha1" if algorithm == "git-sha1" else algorithm, usedforsecurity=False)
        if algorithm == "git-sha1":
            self._hash.update(b"blob %d\0" % size)

    def update(self, chunk: bytes) -> None:
        self._hash.update(chunk)

    def read(self, path: Path) -> Hasher:
        """Add a file's bytes."""
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                self._hash.update(chunk)
        return self

    @property
    def digest(self) -> Digest:
        return Digest(self._algorithm, self._hash.hexdigest())


def digest_of(path: Path, algorithm: Algorithm) -> Digest:
    """The checksum of a file."""
    return Hasher(algorithm, path.stat().st_size).read(path).digest


class Repository(NamedTuple):
    """What is wanted: a model or a data set by its name on the hub.

    Attributes:
        revision: a branch, tag or commit; empty: the hub's own default.
        ignore: patterns of files that nobody needs (``onnx/*``).
        modelscope_name: its name on ModelScope where it is another one.
    """

    kind: Kind
    name: str
    revision: str = ""
    ignore: tuple[str, ...] = ()
    modelscope_name: str = ""


class HubFile(NamedTuple):
    """A file of a repository. ``size`` in bytes; None, as ``digest``: the hub does not say."""

    path: str
    size: int | None
    digest: Digest | None


class Listing(NamedTuple):
    """What a repository holds at ``commit``, which is a name for exactly these files."""

    commit: str
    branch: str
    files: tuple[HubFile, ...]

    @property
    def bytes(self) -> int:
        """Of all files whose size is known."""
        return sum(file.size or 0 for file in self.files)


def chosen(files: Iterable[HubFile], ignore: Sequence[str], where: str) -> tuple[HubFile, ...]:
    """The files without those that match a pattern, in the order of their paths.

    Raises:
        DataError: a path leads out of the folder it is to lie in, which no honest hub says.
    """
    kept = []
    for file in files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise DataError(f"{where}: lists a file '{file.path}', outside of its repository")
        if not any(fnmatch.fnmatchcase(file.path, pattern) for pattern in ignore):
            kept.append(file)
    return tuple(sorted(kept))
