"""Taking an image apart into its stack and the tutorial's own layer, and putting it together again, byte for byte.

The builder makes one self-contained file, the whole: a stack's file system and, as overlay partitions, what was added.
A catalog keeps the stack once for all tutorials that stand on it. So a whole is split into two SIF files::

    stack    the whole's partitions but the last
    layer    the last partition, an overlay; every other object of the whole, its signature too; which stack it needs

``apptainer run --overlay layer.sif:ro stack.sif`` runs what ``apptainer run whole.sif`` runs. Both parts are signed;
the layer's signature covers the digest of the stack.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.definition.reproducible import EPOCH
from harness.files import sha256_of
from harness.image.sif import (
    GENERIC,
    GROUP_MASK,
    JSON,
    PARTITION,
    SIGNATURE,
    Descriptor,
    Sif,
    SifError,
    content_digest,
    normalise,
    pack_image,
    parse_header,
    parse_table,
    read_object,
    read_sif,
)

REFERENCE_NAME = "stack.json"
HEAD_NAME = "whole.head"
SIGNATURE_NAME = "whole.signature"
_CHUNK_BYTES = 1 << 20
_PARTITION_EXTRA = struct.Struct("<ii")  # file system, kind of partition; then the architecture
_OVERLAY = 4
_PAGE_BYTES = 4096
_GROUP = GROUP_MASK | 1


class StackReference(BaseModel):
    """What a layer says of the stack it needs and of the whole it comes from.

    Attributes:
        stack: name of the stack, such as ``pytorch.cpu``.
        stack_sha256: of the stack's file.
        whole_sha256: of the whole, signed.
        whole_content_sha256: of the whole without its signature.
    """

    model_config = ConfigDict(frozen=True)
    schema_version: int = 1
    stack: str
    stack_sha256: str
    whole_sha256: str
    whole_content_sha256: str


@dataclass(frozen=True)
class Piece:
    """An object to be written: its kind, name and extra as in ``pattern``, its bytes in memory or in a file."""

    pattern: Descriptor
    source: Path | None = None
    data: bytes = b""

    @property
    def size(self) -> int:
        return len(self.data) if self.source is None else self.pattern.size


def can_split(whole: Path) -> bool:
    """Whether an image has a layer that can be taken off: its last partition is an overlay.

    Raises:
        SifError: no image, or half of one.
    """
    partitions = read_sif(whole).objects(PARTITION)
    return len(partitions) > 1 and _PARTITION_EXTRA.unpack_from(partitions[-1].extra)[1] == _OVERLAY


def stack_fingerprint(image: Path) -> str:
    """sha256 (hex) over the file systems of the stack in a whole, or of a stack's own file: who signed it is left out.

    Raises:
        SifError: no image, or half of one.
    """
    partitions = read_sif(image).objects(PARTITION)
    digest = hashlib.sha256()
    with image.open("rb") as stream:
        for partition in partitions[:-1] if can_split(image) and not _is_stack(image) else partitions:
            digest.update(partition.size.to_bytes(8, "little") + partition.extra)
            _feed(stream, partition, digest.update)
    return digest.hexdigest()


def write_stack(whole: Path, target: Path) -> None:
    """Write the stack's part of a whole, not signed. Equal stacks give equal files, whatever layer is on them.

    Raises:
        SifError: ``whole`` is no image. OSError: no space.
    """
    sif = read_sif(whole)
    _write(target, sif, [Piece(d, whole) for d in sif.objects(PARTITION)[:-1]])


def write_layer(whole: Path, stack: str, stack_sha256: str, target: Path) -> StackReference:
    """Write the layer of a signed, normalised whole, not signed.

    Args:
        stack: name of the stack.
        stack_sha256: of the stack's file, signed, that was split off this whole, or has the same fingerprint.

    Raises:
        SifError: ``whole`` is no image. OSError: no space.
    """
    sif = read_sif(whole)
    reference = StackReference(
        stack=stack,
        stack_sha256=stack_sha256,
        whole_sha256=sha256_of(whole),
        whole_content_sha256=content_digest(whole),
    )
    below = sif.objects(PARTITION)[:-1]
    pieces = [
        Piece(_data(JSON, REFERENCE_NAME), data=(reference.model_dump_json() + "\n").encode()),
        Piece(_data(GENERIC, HEAD_NAME), data=sif.header.pack() + sif.pack_table().rstrip(b"\0")),
    ]
    for descriptor in sif.objects():
        if descriptor.kind == SIGNATURE:
            pieces.append(Piece(_data(GENERIC, SIGNATURE_NAME), data=read_object(whole, descriptor)))
        elif descriptor not in below:
            pieces.append(Piece(replace(descriptor, group=_GROUP, link=0), whole))
    _write(target, sif, pieces)
    return reference


def read_reference(image: Path) -> StackReference | None:
    """What a layer says of its stack; None for an image that is not a layer. Trust it when its signature was verified.

    Raises:
        SifError: no image, half of one, or a layer with a broken reference.
    """
    for descriptor in read_sif(image).objects(JSON)[:1]:
        if descriptor.name == REFERENCE_NAME:
            try:
                return StackReference.model_validate(json.loads(read_object(image, descriptor)))
            except (ValueError, ValidationError) as error:
                raise SifError(f"broken {REFERENCE_NAME} inside the layer: {error}", where=str(image)) from error
    return None


def join(layer: Path, stack: Path, target: Path) -> None:
    """Write the whole that ``layer`` and ``stack`` were split from.

    Raises:
        SifError: they do not belong together, or one is damaged. OSError: no space.
    """
    reference = read_reference(layer)
    if reference is None:
        raise SifError("this is no tutorial's layer", where=str(layer))
    own, below = read_sif(layer).objects(), read_sif(stack).objects(PARTITION)
    by_name = {d.name: d for d in own}
    head = read_object(layer, by_name[HEAD_NAME])
    header = parse_header(head)
    table = head[len(header.pack()) :].ljust(header.descriptors_total * len(own[0].pack()), b"\0")
    whole = Sif(header, parse_table(header, table, file_bytes=1 << 62))
    rest = iter([d for d in own[2:] if d.kind != SIGNATURE])
    partitions = iter(below)
    with target.open("wb") as stream:
        stream.write(header.pack())
        stream.seek(header.descriptors_offset)
        stream.write(table)
        for number, descriptor in enumerate(whole.objects()):
            is_below = descriptor.kind == PARTITION and number in _first_partitions(whole, len(below))
            source, found = (stack, next(partitions)) if is_below else (layer, next(rest, None))
            if found is None or found.size != descriptor.size:
                raise SifError("the layer does not fit the stack", where=str(layer))
            with source.open("rb") as origin:
                stream.seek(descriptor.offset)
                _feed(origin, found, stream.write)
    actual = sha256_of(target)
    if actual != reference.whole_sha256:
        target.unlink()
        raise SifError(f"layer and stack give sha256 {actual}, not {reference.whole_sha256}", where=str(layer))


def whole_content_digest(image: Path) -> str:
    """:func:`content_digest` of a whole, or of the whole that a layer was split from.

    Raises:
        SifError: no image, or half of one.
    """
    reference = read_reference(image)
    return reference.whole_content_sha256 if reference else content_digest(image)


def _first_partitions(whole: Sif, count: int) -> set[int]:
    return set([n for n, d in enumerate(whole.objects()) if d.kind == PARTITION][:count])


def _is_stack(image: Path) -> bool:
    """A stack's own file holds partitions and signatures alone."""
    return all(d.kind in (PARTITION, SIGNATURE) for d in read_sif(image).objects())


def _data(kind: int, name: str) -> Descriptor:
    return Descriptor(kind, True, 0, _GROUP, 0, 0, 0, 0, 0, 0, 0, 0, name.encode().ljust(128, b"\0"), bytes(384))


def _write(target: Path, like: Sif, pieces: Sequence[Piece]) -> None:
    descriptors = [replace(p.pattern, size=p.size) for p in pieces]
    sif = pack_image(like.header, descriptors, _PAGE_BYTES)
    with target.open("wb") as stream:
        stream.write(sif.header.pack())
        stream.seek(sif.header.descriptors_offset)
        stream.write(sif.pack_table())
        for placed, piece in zip(sif.objects(), pieces, strict=True):
            stream.seek(placed.offset)
            if piece.source is None:
                stream.write(piece.data)
            else:
                with piece.source.open("rb") as origin:
                    _feed(origin, piece.pattern, stream.write)
    normalise(target, EPOCH)


def _feed(stream: BinaryIO, descriptor: Descriptor, sink: Callable[[bytes], object]) -> None:
    stream.seek(descriptor.offset)
    left = descriptor.size
    while left > 0:
        chunk = stream.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise SifError("the file is cut short")
        sink(chunk)
        left -= len(chunk)
