"""Whether a published image is the checkout's, found out without starting a program or reading the image again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.catalog.catalog import Catalog
from harness.catalog.manifest import Manifest
from harness.definition.tutorial_image import Definitions
from harness.errors import HarnessError
from harness.image.compression import Compression
from harness.image.keys import trusted_keys
from harness.project import Variant, image_name
from harness.tutorial import Tutorial


@dataclass(frozen=True)
class Freshness:
    """What was found: the current image's manifest where there is one, and why it is not what is wanted."""

    manifest: Manifest | None
    reasons: tuple[str, ...]


def broken(error: HarnessError) -> str:
    """Why an image that is not as it was published is built again."""
    return f"the published one is broken: {error.where}: {error.what}"


@dataclass(frozen=True)
class FreshnessCheck:
    """Compares a catalog with the checkout.

    Attributes:
        compression: that is wanted.
        digest: gives the sha256 of a file; one that remembers makes this fast.
        use_overlay: an image on its stack is wanted, not one file system.
    """

    catalog: Catalog
    definitions: Definitions
    compression: Compression
    digest: Callable[[Path], str]
    use_overlay: bool = True

    def of(self, tutorial: Tutorial, variant: Variant) -> Freshness:
        """Look at one tutorial's image.

        Raises:
            SpecError: the definition cannot be made.
        """
        try:
            current = self.catalog.current(image_name(tutorial.stem, variant))
        except HarnessError as error:
            return Freshness(None, (broken(error),))
        if current is None:
            return Freshness(None, ("no image is published",))
        reasons = []
        if current.definition_sha256 != self.definitions.key(tutorial, variant):
            reasons.append("its definition, or a file that it copies, changed")
        if current.compression != self.compression.label:
            reasons.append(f"compression: {current.compression} -> {self.compression.label}")
        if current.has_layer != self.use_overlay:
            reasons.append("it is one file system" if self.use_overlay else "it is a layer on its stack")
        if current.via != "apptainer":
            reasons.append(f"its stack was built via {current.via}")
        if current.signed_by not in {public.fingerprint for public in trusted_keys(self.catalog.keys)}:
            reasons.append("it is not signed by a key that the catalog trusts")
        if not reasons:
            try:
                self._check_content(current)
            except HarnessError as error:
                reasons.append(broken(error))
        return Freshness(current, tuple(reasons))

    def _check_content(self, manifest: Manifest) -> None:
        files = self.catalog.files(manifest)
        wanted = {files.main: manifest.sha256}
        if files.stack is not None and manifest.stack_image is not None:
            wanted[files.stack.resolve()] = manifest.stack_image.sha256
        if any(not file.is_file() or self.digest(file) != sha256 for file, sha256 in wanted.items()):
            self.catalog.verify(manifest)  # reads them once more, and says what is wrong
