"""What an image says of itself: its lock and its bill of materials, two objects beside its file system.

They are added before the image is signed, so the signature covers them. Neither holds a time, a path or a host name:
equal images have equal ones.
"""

from __future__ import annotations

import json
import re
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness import __version__
from harness.errors import HarnessError
from harness.image.assembly import Piece, data_object
from harness.image.base import BaseRecord
from harness.image.engine import Engine
from harness.image.made_from import SourceFile
from harness.image.packages import Package
from harness.image.process import run_command
from harness.image.sbom import spdx_document
from harness.image.sif import JSON, SBOM, read_object, read_sif
from harness.stack_lock import StackLock

LOCK_NAME = "lock.json"
SBOM_NAME = "sbom.spdx.json"
TOOL_SECONDS = 30.0
_SPDX_JSON = struct.pack("<i", 4)  # the format's number in a descriptor (sif v2, pkg/sif/sif.go)


class ImageLock(BaseModel):
    """What an image was made from.

    Attributes:
        definition_sha256: over the definition and every file it copies.
        base: see :func:`base_of`.
        tools: versions of the programs that made it.
        stack_lock: the lock of its stack at that time; None where the stack was not locked.
        files: what it was made from, whole; empty in images from before they were kept.
    """

    model_config = ConfigDict(frozen=True)
    schema_version: int = 1
    name: str
    tutorial: str
    stack: str
    variant: str
    definition_sha256: str
    base: dict[str, Any]
    compression: str
    epoch: int
    tools: dict[str, str]
    stack_lock: StackLock | None = None
    files: dict[str, SourceFile] = Field(default_factory=dict)


def base_of(base: BaseRecord) -> dict[str, Any]:
    """The base for a lock: reference, digest, origin, and for a bootstrapped one its packages.

    Not which registry gave it, nor when its package lists were made: neither changes what is in the image.
    """
    entry = base.lock_entry()
    return {**entry, "details": {k: v for k, v in base.details.items() if k not in ("registry", "releases")}}


def tool_versions(engine: Engine) -> dict[str, str]:
    """Versions of what takes part in making an image.

    Raises:
        MissingToolError: there is no mksquashfs.
    """
    printed = run_command(["mksquashfs", "-version"], timeout_s=TOOL_SECONDS, check=False).output
    found = re.search(r"version (\S+)", printed)
    return {
        engine.name: engine.version,
        "mksquashfs": found[1] if found else "unknown",
        "tutorial-harness": __version__,
    }


def embed(engine: Engine, image: Path, lock: ImageLock, packages: Sequence[Package]) -> None:
    """Add the lock and the bill of materials to an image that is not signed yet.

    Args:
        packages: what is installed in it.

    Raises:
        CommandError: the engine refuses.
    """
    with tempfile.TemporaryDirectory(prefix=".objects-", dir=image.parent) as folder:
        for name, data, flags in (
            (LOCK_NAME, _lock_text(lock), ["--datatype", "6"]),
            (SBOM_NAME, _sbom_text(lock, packages), ["--datatype", "9", "--sbomformat", "spdx-json"]),
        ):
            file = Path(folder) / name
            file.write_bytes(data)
            command = [str(engine.path), "sif", "add", *flags, "--groupid", "1", "--filename", name]
            run_command([*command, str(image), str(file)], what=f"adding {name}", where=str(image))


def contents_pieces(lock: ImageLock, packages: Sequence[Package]) -> list[Piece]:
    """The two objects that :func:`embed` adds to a file, for an image that is not written."""
    return [
        Piece(data_object(JSON, LOCK_NAME), data=_lock_text(lock)),
        Piece(data_object(SBOM, SBOM_NAME, extra=_SPDX_JSON), data=_sbom_text(lock, packages)),
    ]


def _lock_text(lock: ImageLock) -> bytes:
    return _line(lock.model_dump(mode="json"))


def _sbom_text(lock: ImageLock, packages: Sequence[Package]) -> bytes:
    return _line(spdx_document(lock.name, lock.definition_sha256, packages, lock.epoch))


def _line(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, ensure_ascii=False, sort_keys=True) + "\n").encode()


def read_lock(image: Path) -> ImageLock:
    """The lock inside an image. Whether it can be trusted is the signature's business.

    Raises:
        HarnessError: there is none, or it is broken. SifError: no image, or half of one.
    """
    try:
        return ImageLock.model_validate(_read(image, JSON, LOCK_NAME))
    except ValidationError as error:
        raise HarnessError(f"broken lock inside the image: {error}", where=str(image)) from error


def read_sbom(image: Path) -> Mapping[str, Any]:
    """The SPDX document inside an image.

    Raises:
        HarnessError: there is none, or it is broken. SifError: no image, or half of one.
    """
    return _read(image, SBOM, None)


def _read(image: Path, kind: int, name: str | None) -> Mapping[str, Any]:
    for descriptor in read_sif(image).objects(kind):
        if name in (None, descriptor.name):
            try:
                data = json.loads(read_object(image, descriptor))
            except ValueError as error:
                raise HarnessError(f"broken {descriptor.name} inside the image", where=str(image)) from error
            if isinstance(data, dict):
                return data
    what = name or SBOM_NAME
    raise HarnessError(f"no {what} inside", where=str(image), fix="it was not built by this project, or long ago")
