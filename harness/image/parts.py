"""Taking an image apart into its stack and the tutorial's own layer, and putting it together again, byte for byte.

A tutorial's image, the whole, is a stack's file system and, as an overlay partition, what was added. A catalog keeps
the stack once for all tutorials that stand on it, as two SIF files::

    stack    the whole's partitions but the last
    layer    the last partition, an overlay; every other object of the whole, its signature too; which stack it needs

``apptainer run --overlay layer.sif:ro stack.sif`` runs what ``apptainer run whole.sif`` runs. Both parts are signed;
the layer's signature covers the digest of the stack. The whole is written when somebody exports it, not before.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.files import sha256_of
from harness.image.assembly import Assembly, Piece, data_object, is_partition, pieces_of
from harness.image.sif import (
    GENERIC,
    JSON,
    PARTITION,
    SIGNATURE,
    Sif,
    SifError,
    content_digest,
    parse_header,
    parse_table,
    read_data,
    read_object,
    read_sif,
)
from harness.image.signature import signed_digests

REFERENCE_NAME = "stack.json"
HEAD_NAME = "whole.head"
SIGNATURE_NAME = "whole.signature"


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


def stack_fingerprint(stage: Path) -> str:
    """sha256 (hex) over the file systems of a stack's image: who signed it, and what else is in it, is left out.

    Raises:
        SifError: no image, or half of one.
    """
    digest = hashlib.sha256()
    with stage.open("rb") as stream:
        for partition in read_sif(stage).objects(PARTITION):
            digest.update(partition.size.to_bytes(8, "little") + partition.extra)
            for chunk in read_data(stream, partition):
                digest.update(chunk)
    return digest.hexdigest()


def file_systems(image: Path) -> list[Piece]:
    """The partitions of an image."""
    return pieces_of(image, read_sif(image).objects(PARTITION))


def signed_file_systems(stack: Path) -> list[Piece]:
    """The partitions of a stack as a catalog has it, with the digests that its signature states, so not read.

    Raises:
        SifError: no image, or not signed as stacks are.
    """
    sif = read_sif(stack)
    partitions, signatures = sif.objects(PARTITION), sif.objects(SIGNATURE)
    if not signatures:
        raise SifError("it is not signed", where=str(stack))
    digests = signed_digests(read_object(stack, signatures[-1]))
    try:
        known = [digests[partition.object_id - partitions[0].object_id] for partition in partitions]
    except KeyError:
        raise SifError("its signature does not cover its file systems", where=str(stack)) from None
    pieces = pieces_of(stack, partitions)
    return [Piece(p.pattern, p.source, known_sha256=sha256) for p, sha256 in zip(pieces, known, strict=True)]


def stack_assembly(stage: Path) -> Assembly:
    """A stack's part of every whole that stands on it, not signed. Equal stacks give equal files.

    Raises:
        SifError: ``stage`` is no image.
    """
    return Assembly.of(read_sif(stage).header, file_systems(stage))


def layer_assembly(whole: Assembly, stack: str, stack_sha256: str) -> tuple[Assembly, StackReference]:
    """The layer of a signed whole, not signed itself, and what it says of its stack.

    Args:
        whole: its first objects are the stack's partitions, its last one its signature.
        stack: name of the stack.
        stack_sha256: of the stack's file, signed.

    Raises:
        SifError: a source is cut short. OSError: one cannot be read.
    """
    reference = StackReference(
        stack=stack,
        stack_sha256=stack_sha256,
        whole_sha256=whole.sha256(),
        whole_content_sha256=whole.contents_digest(),
    )
    head = whole.sif.header.pack() + whole.sif.pack_table().rstrip(b"\0")
    partitions = [piece for piece in whole.pieces if is_partition(piece)]
    pieces = [
        Piece(data_object(JSON, REFERENCE_NAME), data=(reference.model_dump_json() + "\n").encode()),
        Piece(data_object(GENERIC, HEAD_NAME), data=head),
        *(piece for piece in whole.pieces[:-1] if piece not in partitions[:-1]),
        Piece(data_object(GENERIC, SIGNATURE_NAME), data=whole.pieces[-1].data),
    ]
    return Assembly.of(whole.sif.header, pieces), reference


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
                for chunk in read_data(origin, found):
                    stream.write(chunk)
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
