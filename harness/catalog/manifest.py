"""What a catalog writes down of an image, in a file beside it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class BaseOrigin(BaseModel):
    """Where the base image came from.

    Attributes:
        reference: as the Dockerfile names it.
        digest: of the image that was used.
        origin: ``registry``, or ``bootstrapped`` from the package mirror of the machine's own apt.
        suite: the Debian release of a bootstrapped base.
        details: what is in a bootstrapped base: architecture, packages with versions, dates of the package lists.
    """

    model_config = ConfigDict(frozen=True)
    reference: str
    digest: str
    origin: str
    suite: str | None = None
    details: dict[str, Any] = Field(default_factory=dict)


class StackManifest(BaseModel):
    """What is known of a published stack.

    Attributes:
        name: stack and variant, such as ``pytorch.cpu``.
        sha256: of the file.
        fingerprint: of its file systems: the same whoever signed it.
        signed_by: fingerprint of the key.
        bytes: size of the file.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    sha256: str
    fingerprint: str
    signed_by: str
    bytes: int


class Manifest(BaseModel):
    """What is known of a published image.

    Attributes:
        sha256: of the tutorial's layer, which names its stack by digest; of the whole file where there is no layer.
            This is the image's identity: in run records, in verdicts, and the name of its folder.
        stack_image: the stack that the layer needs; None where the image is one file.
        whole_sha256: of the self-contained file that ``harness export`` writes.
        content_sha256: of that file without its signature: the same whoever signed it.
        signed_by: fingerprint of the key.
        bytes: size of the self-contained file.
        own_bytes: size of the file that no other image shares.
        via: who built the stack: ``apptainer``, its definition; ``docker``, its Dockerfile.
        built_at: UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    tutorial: str
    stack: str
    variant: str
    sha256: str
    stack_image: StackManifest | None
    whole_sha256: str
    content_sha256: str
    signed_by: str
    bytes: int
    own_bytes: int
    definition_sha256: str
    base: BaseOrigin
    compression: str
    builder: str
    via: str = "apptainer"
    built_at: str
    git_revision: str | None

    @property
    def has_layer(self) -> bool:
        """Whether it was built as a layer on its stack; False: as one file system, as with ``--no-overlay``."""
        return self.stack_image is not None
