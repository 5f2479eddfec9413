"""The Singularity Image Format: reading its header and descriptors, and removing what differs between two builds.

Only what the format itself says is here; no program is called. The layout, version 01, all numbers little-endian::

    0       launch script [32]  magic "SIF_MAGIC\\0" [10]  version "01\\0" [3]  architecture [3]
    48      image id: a UUID [16]
    64      created, modified: seconds since 1970 [2 x 8]
    80      descriptors free, descriptors in all, their offset, their bytes, data offset, data bytes [6 x 8]
    offset  descriptors [585 each]: type, in use, id, group, link, offset, bytes, bytes with padding, created,
            modified, user id, group id, name [128], extra [384]

Source: github.com/apptainer/sif, pkg/sif/sif.go and descriptor.go (the same in github.com/sylabs/sif v2).

What a signature covers (measured field by field in tests/test_image_signing.py): of the header the launch script,
magic, version and id; of each object its data and its descriptor but for offset, padding and modification time (another
offset leads to other data, and is noticed by that). The rest, times and counts of the header, padding, unused
descriptors, most of the signature's own descriptor, is covered only by the sha256 that names an image in a catalog.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from harness.errors import HarnessError

MAGIC = b"SIF_MAGIC\0"
VERSION = b"01\0"
GROUP_MASK = 0xF0000000
"""Set in the number of a group, and in a link that leads to a group."""

DEFINITION, ENVIRONMENT, LABELS, PARTITION, SIGNATURE, JSON, GENERIC, CRYPTO_MESSAGE, SBOM = range(0x4001, 0x400A)
"""Types of objects."""

_HEADER = struct.Struct("<32s10s3s3s16s8q")
_DESCRIPTOR = struct.Struct("<i?3I7q128s384s")
_MOST_DESCRIPTORS = 1 << 16  # a header that says more is damaged: no image has a thousandth of it
_LAUNCH_BYTES = 32
_CHUNK_BYTES = 1 << 20
_USUAL_DESCRIPTORS = 48  # what the engines reserve
_SPARE_DESCRIPTORS = 8


class SifError(HarnessError):
    """A file that is no SIF image, or half of one."""


@dataclass(frozen=True)
class Header:
    """The global header; ``created`` and ``modified`` are seconds since 1970."""

    launch_script: bytes
    magic: bytes
    version: bytes
    architecture: bytes
    image_id: bytes
    created: int
    modified: int
    descriptors_free: int
    descriptors_total: int
    descriptors_offset: int
    descriptors_bytes: int
    data_offset: int
    data_bytes: int

    def pack(self) -> bytes:
        """The header's bytes in the file."""
        return _HEADER.pack(*(getattr(self, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Descriptor:
    """Where one object lies and what it is. ``stored`` counts the alignment before the object too."""

    kind: int
    used: bool
    object_id: int
    group: int
    link: int
    offset: int
    size: int
    stored: int
    created: int
    modified: int
    user: int
    owner_group: int
    raw_name: bytes
    extra: bytes

    def pack(self) -> bytes:
        """The descriptor's bytes in the file."""
        return _DESCRIPTOR.pack(*(getattr(self, name) for name in self.__dataclass_fields__))

    @property
    def name(self) -> str:
        return self.raw_name.split(b"\0", 1)[0].decode("utf-8", "replace")

    @property
    def end(self) -> int:
        return self.offset + self.size


_UNUSED = Descriptor(*_DESCRIPTOR.unpack(bytes(_DESCRIPTOR.size)))


@dataclass(frozen=True)
class Sif:
    """Header and descriptors of an image, unused descriptors included."""

    header: Header
    descriptors: tuple[Descriptor, ...]

    def objects(self, kind: int | None = None) -> list[Descriptor]:
        """The objects in the file's order, all or those of one kind."""
        return [d for d in self.descriptors if d.used and kind in (None, d.kind)]

    def pack_table(self) -> bytes:
        """All descriptors' bytes in the file."""
        return b"".join(d.pack() for d in self.descriptors)


# --- reading ----------------------------------------------------------------------------------


def parse_header(data: bytes) -> Header:
    """The header from the first 128 bytes of an image.

    Raises:
        SifError: it is none.
    """
    if len(data) < _HEADER.size:
        raise SifError("the file ends inside its header")
    header = Header(*_HEADER.unpack_from(data))
    if header.magic != MAGIC:
        raise SifError("this is no SIF image")
    if header.version != VERSION:
        raise SifError(f"SIF version {header.version!r} is unknown")
    total = header.descriptors_total
    if not 0 <= header.descriptors_free <= total <= _MOST_DESCRIPTORS or header.descriptors_offset < _HEADER.size:
        raise SifError("the header is damaged")
    return header


def parse_table(header: Header, data: bytes, file_bytes: int) -> tuple[Descriptor, ...]:
    """The descriptors from the bytes of their table; ``file_bytes`` is the size of the whole file.

    Raises:
        SifError: the table is cut short, or an object ends behind the file's end.
    """
    wanted = header.descriptors_total * _DESCRIPTOR.size
    if len(data) < wanted:
        raise SifError("the file ends inside its descriptors")
    descriptors = tuple(Descriptor(*fields) for fields in _DESCRIPTOR.iter_unpack(data[:wanted]))
    for d in descriptors:
        if d.used and not (d.offset >= 0 and d.size >= 0 and d.end <= file_bytes):
            raise SifError(f"object {d.object_id} lies outside the file: it is cut short or damaged")
    return descriptors


def read_sif(path: Path) -> Sif:
    """Header and descriptors of an image; its data is not read.

    Raises:
        SifError: no image, or half of one. OSError: it cannot be read.
    """
    with path.open("rb") as stream, _at(path):
        return _read(stream)


def is_sif(path: Path) -> bool:
    """Does the file begin as a SIF image does? Whether all of it is there is another question.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return stream.read(_LAUNCH_BYTES + len(MAGIC))[_LAUNCH_BYTES:] == MAGIC


def read_object(path: Path, descriptor: Descriptor) -> bytes:
    """The whole data of one object."""
    with path.open("rb") as stream:
        stream.seek(descriptor.offset)
        return stream.read(descriptor.size)


def read_data(stream: BinaryIO, descriptor: Descriptor) -> Iterator[bytes]:
    """The data of one object, in chunks.

    Raises:
        SifError: the file is cut short.
    """
    stream.seek(descriptor.offset)
    left = descriptor.size
    while left > 0:
        chunk = stream.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise SifError("the file is cut short")
        left -= len(chunk)
        yield chunk


def signer_ids(path: Path) -> list[str]:
    """Fingerprints of the keys that an image says it is signed with; nothing here is verified.

    Raises:
        SifError: no image, or half of one.
    """
    found = []
    for descriptor in read_sif(path).objects(SIGNATURE):
        try:
            envelope = json.loads(read_object(path, descriptor))
            found += [str(signature["keyid"]) for signature in envelope["signatures"]]
        except (ValueError, KeyError, TypeError):
            found.append("unknown")  # a PGP signature, or a damaged one: no key of ours
    return found


def content_digest(path: Path) -> str:
    """sha256 (hex) over what is in an image, see :func:`digest_of_contents`: the same for whoever signed it.

    Raises:
        SifError: no image, or half of one.
    """
    with path.open("rb") as stream, _at(path):
        sif = _read(stream)
        return digest_of_contents(sif, object_digests(stream, sif))


def digest_of_contents(sif: Sif, digests: Mapping[int, str]) -> str:
    """sha256 (hex) over an image's header, its objects' descriptors and the digests of their data.

    Left out are signatures and, as in what a signature covers, where each object lies and what lies between them: so
    it is known before the image is written.

    Args:
        digests: of each object that is no signature, by its id: sha256, hex.
    """
    fixed = replace(sif.header, created=0, modified=0, descriptors_free=0, descriptors_total=0, descriptors_offset=0)
    digest = hashlib.sha256(replace(fixed, descriptors_bytes=0, data_offset=0, data_bytes=0).pack())
    for descriptor in sif.objects():
        if descriptor.kind != SIGNATURE:
            digest.update(replace(descriptor, offset=0, stored=0, modified=0).pack())
            digest.update(bytes.fromhex(digests[descriptor.object_id]))
    return digest.hexdigest()


def image_id_of(sif: Sif, digests: Mapping[int, str]) -> bytes:
    """A UUID (version 8: made by the application) that follows from everything that is in an image but its id."""
    blank = replace(sif, header=replace(sif.header, image_id=bytes(16)))
    digest = bytearray(bytes.fromhex(digest_of_contents(blank, digests))[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return uuid.UUID(bytes=bytes(digest)).bytes


def object_digests(stream: BinaryIO, sif: Sif) -> dict[int, str]:
    """sha256 (hex) of the data of each object that is no signature, by its id.

    Raises:
        SifError: the file is cut short.
    """
    return {d.object_id: _digest(stream, d) for d in sif.objects() if d.kind != SIGNATURE}


def pack_image(like: Header, objects: Sequence[Descriptor], page_bytes: int) -> Sif:
    """Places for objects in a new image: numbered from 1, in the given order, partitions on page boundaries.

    Args:
        like: its launch script, version and architecture are taken.
        objects: kind, group, link, size, name and extra of each; the rest is filled in.
        page_bytes: on multiples of this partitions begin.
    """
    slots = max(_USUAL_DESCRIPTORS, len(objects) + _SPARE_DESCRIPTORS)
    start = page_bytes + slots * _DESCRIPTOR.size
    end, placed = start, []
    for number, descriptor in enumerate(objects, 1):
        offset = -(-end // page_bytes) * page_bytes if descriptor.kind == PARTITION else end
        stored = offset + descriptor.size - end
        placed.append(replace(descriptor, used=True, object_id=number, offset=offset, stored=stored))
        end = offset + descriptor.size
    header = replace(
        like,
        descriptors_total=slots,
        descriptors_offset=page_bytes,
        descriptors_bytes=slots * _DESCRIPTOR.size,
        data_offset=start,
    )
    return _counted(Sif(header, (*placed, *(_UNUSED for _ in range(slots - len(placed))))))


# --- normalising ------------------------------------------------------------------------------


def normalise(path: Path, epoch: int) -> None:
    """Rewrite an image in place so that equal content gives equal bytes; data is not touched.

    Times become ``epoch``, user and group numbers 0, what deleted objects left behind is blanked or cut off, and the
    image's id is made from everything else. A signature's own descriptor carries a time that nothing covers: calling
    this again after signing leaves the signature valid, and equal content signed with one ed25519 key gives equal
    files.

    Raises:
        SifError: no image, or half of one. OSError: it cannot be read or written.
    """
    with path.open("r+b") as stream, _at(path):
        sif = _read(stream)
        fixed = normalised(sif, epoch)
        is_signed = bool(sif.objects(SIGNATURE))
        if is_signed and any(
            old.kind != SIGNATURE and _signed_part(old) != _signed_part(new)
            for old, new in zip(sif.descriptors, fixed.descriptors, strict=True)
        ):
            raise SifError("it was signed before it was normalised", fix="normalise first, then sign")
        _blank_gaps(stream, fixed)
        if not is_signed:
            image_id = image_id_of(fixed, object_digests(stream, fixed))
            fixed = replace(fixed, header=replace(fixed.header, image_id=image_id))
        stream.seek(0)
        stream.write(fixed.header.pack())
        stream.seek(fixed.header.descriptors_offset)
        stream.write(fixed.pack_table())
        stream.truncate(max(d.end for d in fixed.objects()) if fixed.objects() else fixed.header.data_offset)


def normalised(sif: Sif, epoch: int) -> Sif:
    """``sif`` with fixed times and owners and without deleted objects; its id is as it was."""
    descriptors = tuple(
        replace(d, created=epoch, modified=epoch, user=0, owner_group=0) if d.used else _UNUSED for d in sif.descriptors
    )
    return _counted(Sif(replace(sif.header, created=epoch, modified=epoch), descriptors))


def _blank_gaps(stream: BinaryIO, sif: Sif) -> None:
    """Write zeros where no object lies: whoever knows the objects and their places then knows the whole file."""
    end = sif.header.descriptors_offset + sif.header.descriptors_total * _DESCRIPTOR.size
    for descriptor in sorted(sif.objects(), key=lambda d: d.offset):
        gap = descriptor.offset - end
        if gap > 0:
            stream.seek(end)
            stream.write(bytes(gap))
        end = max(end, descriptor.end)


def _counted(sif: Sif) -> Sif:
    """``sif`` with a header that counts its objects."""
    used = sif.objects()
    end = max((d.end for d in used), default=sif.header.data_offset)
    header = replace(
        sif.header,
        descriptors_free=len(sif.descriptors) - len(used),
        data_bytes=max(0, end - sif.header.data_offset),
    )
    return Sif(header, sif.descriptors)


def _signed_part(descriptor: Descriptor) -> Descriptor:
    """Without what no signature covers."""
    return replace(descriptor, modified=0)


def _digest(stream: BinaryIO, descriptor: Descriptor) -> str:
    digest = hashlib.sha256()
    for chunk in read_data(stream, descriptor):
        digest.update(chunk)
    return digest.hexdigest()


def _read(stream: BinaryIO) -> Sif:
    header = parse_header(stream.read(_HEADER.size))
    stream.seek(header.descriptors_offset)
    table = stream.read(header.descriptors_total * _DESCRIPTOR.size)
    return Sif(header, parse_table(header, table, stream.seek(0, 2)))


@contextlib.contextmanager
def _at(path: Path) -> Iterator[None]:
    """Put the file's name into errors of the pure functions."""
    try:
        yield
    except SifError as error:
        raise SifError(error.what, where=str(path), fix=error.fix) from error
