"""Publishing images and finding them again.

Layout, below the catalog's root::

    images/<name>/<sha256>.sif    the image, named by its content
    images/<name>/<sha256>.json   its manifest
    images/<name>/current.sif     link to the image jobs use
    images/<name>/.building-*     being written; not an image yet
    keys/*.pem                    public keys: images signed by one of them are this catalog's
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import HarnessError, UserError
from harness.files import fsync_folder, sha256_of, write_whole


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


class Manifest(BaseModel):
    """What is known of a published image.

    Attributes:
        sha256: of the file.
        content_sha256: of the file without its signature: the same whoever signed it.
        signed_by: fingerprint of the key; None for an image from before images were signed.
        bytes: size of the file.
        via: who built the stack: ``apptainer``, its definition; ``docker``, its Dockerfile.
        built_at: UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    tutorial: str
    stack: str
    variant: str
    sha256: str
    content_sha256: str | None = None
    signed_by: str | None = None
    bytes: int
    definition_sha256: str
    base: BaseOrigin
    compression: str
    builder: str
    built_at: str
    git_revision: str | None
    via: str = "apptainer"


@dataclass(frozen=True)
class Catalog:
    """A catalog folder. It need not exist yet."""

    root: Path

    @property
    def keys(self) -> Path:
        """The folder of the public keys that this catalog trusts."""
        return self.root / "keys"

    def folder(self, name: str) -> Path:
        return self.root / "images" / name

    def image_file(self, name: str, sha256: str) -> Path:
        return self.folder(name) / f"{sha256}.sif"

    def manifest_file(self, name: str, sha256: str) -> Path:
        return self.folder(name) / f"{sha256}.json"

    def current_link(self, name: str) -> Path:
        return self.folder(name) / "current.sif"

    def new_temporary(self, name: str) -> Path:
        """A path to write an image to, on the file system it will be published on."""
        self.folder(name).mkdir(parents=True, exist_ok=True)
        return self.folder(name) / f".building-{os.getpid()}-{secrets.token_hex(4)}.sif"

    def leftovers(self, name: str) -> list[Path]:
        """Temporary files of that name's builders, running or killed."""
        return sorted(self.folder(name).glob(".building-*"))

    def publish(self, temporary: Path, manifest: Manifest) -> Path:
        """Make a finished, tested image current. Every step is a rename: a reader sees the old image or the new one.

        Raises:
            HarnessError: the file is not the one the manifest describes.
        """
        actual = sha256_of(temporary)
        if actual != manifest.sha256:
            raise HarnessError(f"content is {actual}, the manifest says {manifest.sha256}", where=str(temporary))
        image = self.image_file(manifest.name, manifest.sha256)
        write_whole(self.manifest_file(manifest.name, manifest.sha256), manifest.model_dump_json(indent=1) + "\n")
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o444 | (temporary.stat().st_mode & 0o111))
        temporary.replace(image)
        link = self.current_link(manifest.name)
        aside = link.with_name(f".building-{secrets.token_hex(4)}")
        aside.symlink_to(image.name)
        aside.replace(link)
        fsync_folder(link.parent)
        return image

    def current(self, name: str) -> Manifest | None:
        """Manifest of the image jobs use, or None where none is published.

        Raises:
            HarnessError: there is an image but its manifest is missing or broken.
        """
        link = self.current_link(name)
        try:
            target = link.readlink()
        except FileNotFoundError:
            return None
        return self.manifest(name, target.stem)

    def manifest(self, name: str, sha256: str) -> Manifest:
        """Manifest of one image.

        Raises:
            HarnessError: missing or broken.
        """
        path = self.manifest_file(name, sha256)
        try:
            return Manifest.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise HarnessError("an image without its manifest", where=str(path), fix="build the image again") from None
        except (ValueError, ValidationError) as error:
            raise HarnessError(f"broken manifest: {error}", where=str(path), fix="build the image again") from error

    def verify(self, manifest: Manifest) -> None:
        """Read the whole image and compare it with its name.

        Raises:
            UserError: the file is not there. HarnessError: its content is not what was published.
        """
        image = self.image_file(manifest.name, manifest.sha256)
        if not image.is_file():
            raise UserError("the image is not there", where=str(image), fix="build it again")
        actual = sha256_of(image)
        if actual != manifest.sha256:
            raise HarnessError(
                f"damaged: content is sha256 {actual}", where=str(image), fix="remove it and build again"
            )
