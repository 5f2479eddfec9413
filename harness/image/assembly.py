"""An image that is known to its last byte and not written: where each object lies, and where its data comes from.

A tutorial's image is its stack's file system, hundreds of megabytes that lie in a file already, and a few small
objects. Its id, what a signature of it says and its sha256 follow from the parts; the whole is written by who wants it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.definition.reproducible import EPOCH
from harness.image.sif import (
    GROUP_MASK,
    PARTITION,
    Descriptor,
    Header,
    Sif,
    digest_of_contents,
    image_id_of,
    normalised,
    pack_image,
    read_data,
)

GROUP = GROUP_MASK | 1
"""The group of everything that an image consists of; its signature covers the group."""

_PAGE_BYTES = 4096
_NAME_BYTES, _EXTRA_BYTES = 128, 384


@dataclass(frozen=True)
class Piece:
    """An object of an image: its kind, name and extra as in ``pattern``, its bytes in memory or in a file.

    Attributes:
        source: the file; ``pattern`` says where in it the bytes are.
        data: the bytes, where there is no file.
        known_sha256: hex, of bytes in a file, where somebody knows it; else the file is read when it is wanted.
    """

    pattern: Descriptor
    source: Path | None = None
    data: bytes = b""
    known_sha256: str = ""

    @property
    def size(self) -> int:
        return len(self.data) if self.source is None else self.pattern.size

    def chunks(self) -> Iterator[bytes]:
        """The bytes.

        Raises:
            SifError: the file is cut short. OSError: it cannot be read.
        """
        if self.source is None:
            yield self.data
            return
        with self.source.open("rb") as stream:
            yield from read_data(stream, self.pattern)

    def sha256(self) -> str:
        """Of the bytes, hex."""
        if self.known_sha256:
            return self.known_sha256
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()


@dataclass(frozen=True)
class Assembly:
    """An image and the pieces it is made of, in its order. Normalised: equal pieces make equal images."""

    sif: Sif
    pieces: tuple[Piece, ...]

    @classmethod
    def of(cls, like: Header, pieces: Sequence[Piece]) -> Assembly:
        """The image that consists of ``pieces``.

        Args:
            like: its launch script, version and architecture are taken.
        """
        sif = _placed(like, pieces)
        digests = {d.object_id: piece.sha256() for d, piece in zip(sif.objects(), pieces, strict=True)}
        image_id = image_id_of(sif, digests)
        kept = tuple(replace(p, known_sha256=digests[number]) for number, p in enumerate(pieces, 1))
        return cls(replace(sif, header=replace(sif.header, image_id=image_id)), kept)

    def digests(self) -> dict[int, str]:
        """sha256 (hex) of the data of each object, by its id."""
        return {d.object_id: piece.sha256() for d, piece in zip(self.sif.objects(), self.pieces, strict=True)}

    def contents_digest(self) -> str:
        """As :func:`harness.image.sif.content_digest` of the file."""
        return digest_of_contents(self.sif, self.digests())

    def with_last(self, piece: Piece) -> Assembly:
        """The same image, by its id, with one more object: a signature."""
        pieces = (*self.pieces, piece)
        return Assembly(_placed(self.sif.header, pieces), pieces)

    def chunks(self) -> Iterator[bytes]:
        """The file's bytes.

        Raises:
            SifError: a source is cut short. OSError: one cannot be read.
        """
        header, table = self.sif.header.pack(), self.sif.pack_table()
        yield header
        yield bytes(self.sif.header.descriptors_offset - len(header))
        yield table
        end = self.sif.header.descriptors_offset + len(table)
        for descriptor, piece in zip(self.sif.objects(), self.pieces, strict=True):
            yield bytes(descriptor.offset - end)
            yield from piece.chunks()
            end = descriptor.end

    def sha256(self) -> str:
        """Of the file, hex; all its bytes are read for it."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def write(self, target: Path) -> None:
        """Write the file.

        Raises:
            SifError: a source is cut short. OSError: no space, or a file cannot be read or written.
        """
        with target.open("wb") as stream:
            for chunk in self.chunks():
                stream.write(chunk)
        target.chmod(0o755)


def data_object(kind: int, name: str = "", *, extra: bytes = b"", group: int = GROUP, link: int = 0) -> Descriptor:
    """Kind, name and extra of an object whose bytes are in memory; the rest is filled in when it gets its place."""
    raw_name = name.encode().ljust(_NAME_BYTES, b"\0")
    return Descriptor(kind, True, 0, group, link, 0, 0, 0, 0, 0, 0, 0, raw_name, extra.ljust(_EXTRA_BYTES, b"\0"))


def pieces_of(image: Path, descriptors: Sequence[Descriptor]) -> list[Piece]:
    """Objects of an image as pieces of another."""
    return [Piece(replace(descriptor, group=GROUP, link=0), image) for descriptor in descriptors]


def is_partition(piece: Piece) -> bool:
    """Whether it is a file system."""
    return piece.pattern.kind == PARTITION


def _placed(like: Header, pieces: Sequence[Piece]) -> Sif:
    return normalised(pack_image(like, [replace(p.pattern, size=p.size) for p in pieces], _PAGE_BYTES), EPOCH)
