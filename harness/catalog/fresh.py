"""Whether a published image is the checkout's, found out without starting a program or reading the image again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.catalog.catalog import Catalog
from harness.catalog.manifest import Manifest
from harness.definition.tutorial_image import Definitions
from harness.image.compression import Compression
from harness.image.keys import trusted_keys
from harness.project import Variant, image_name
from harness.tutorial import Tutorial


@dataclass(frozen=True)
class Freshness:
    """What was found: the current image's manifest where there is one, and why it is not what is wanted."""

    manifest: Manifest | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class FreshnessCheck:
    """Compares a catalog with the checkout.

    Attributes:
        compression: that is wanted.
        digest: gives the sha256 of a file; one that remembers makes this fast.
    """

    catalog: Catalog
    definitions: Definitions
    compression: Compression
    digest: Callable[[Path], str]

    def of(self, tutorial: Tutorial, variant: Variant) -> Freshness:
        """Look at one tutorial's image.

        Raises:
            SpecError: the definition cannot be made. HarnessError: the image is damaged, or its manifest is.
            UserError: the image's file is gone.
        """
        current = self.catalog.current(image_name(tutorial.stem, variant))
        if current is None:
            return Freshness(None, ("no image is published",))
        reasons = []
        if current.definition_sha256 != self.definitions.key(tutorial, variant):
            reasons.append("its definition, or a file that it copies, changed")
        if current.compression != self.compression.label:
            reasons.append(f"compression: {current.compression} -> {self.compression.label}")
        if current.via != "apptainer":
            reasons.append(f"its stack was built via {current.via}")
        if current.signed_by not in {public.fingerprint for public in trusted_keys(self.catalog.keys)}:
            reasons.append("it is not signed by a key that the catalog trusts")
        if not reasons:
            self._check_content(current)
        return Freshness(current, tuple(reasons))

    def _check_content(self, manifest: Manifest) -> None:
        files = self.catalog.files(manifest)
        wanted = {files.main: manifest.sha256}
        if files.stack is not None and manifest.stack_image is not None:
            wanted[files.stack.resolve()] = manifest.stack_image.sha256
        if any(not file.is_file() or self.digest(file) != sha256 for file, sha256 in wanted.items()):
            self.catalog.verify(manifest)  # reads them once more, and says what is wrong
