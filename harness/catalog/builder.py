"""From a tutorial to a published image: build aside, test, publish; or nothing to do."""

from __future__ import annotations

import datetime
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.catalog.catalog import BaseOrigin, Catalog, Manifest
from harness.definition.reproducible import EPOCH
from harness.definition.tutorial_image import definition_key, tutorial_definition
from harness.errors import UserError
from harness.files import sha256_of
from harness.image.build import COMPRESSION, ImageBuilder, exclusive
from harness.image.keys import PublicKey, SigningKey, signing_key, trust, trusted_keys
from harness.image.sif import content_digest, normalise
from harness.image.sign import sign, verify
from harness.project import Variant, image_name
from harness.tutorial import Tutorial


@dataclass(frozen=True)
class CatalogBuilder:
    """Keeps a catalog's images up to date with the checkout."""

    images: ImageBuilder
    catalog: Catalog

    def build(self, tutorial: Tutorial, variant: Variant, *, force: bool = False) -> Manifest:
        """Build and publish one image; one that is up to date already is only verified.

        Raises:
            SpecError: the definition cannot be made. HarnessError: the build, a test in it, or the base failed.
            UserError: no usable signing key, or one that the catalog does not trust.
        """
        builder, project = self.images, self.images.project
        name = image_name(tutorial.stem, variant)
        key = definition_key(project, tutorial_definition(project, tutorial, variant))
        with exclusive(builder.cache, name, builder.progress):
            current = self.catalog.current(name)
            fingerprints = {public.fingerprint for public in trusted_keys(self.catalog.keys)}
            via = "docker" if builder.docker else "apptainer"
            is_current = (
                current is not None
                and (current.definition_sha256, current.via) == (key, via)
                and current.signed_by in fingerprints
            )
            if current is not None and is_current and not force:
                self.catalog.verify(current)
                builder.progress(f"{name}: up to date")
                return current
            signer, trusted = self._keys()  # before the long work
            self._sweep(name)
            temporary = self.catalog.new_temporary(name)
            try:
                base = builder.build(tutorial, variant, temporary)
                sign(builder.engine, temporary, signer)
                normalise(temporary, EPOCH)  # the signature's own time
                signed_by = verify(builder.engine, temporary, trusted)
                docker = f"docker {builder.docker.version}, " if builder.docker else ""
                manifest = Manifest(
                    name=name,
                    tutorial=tutorial.id,
                    stack=tutorial.stack,
                    variant=variant,
                    sha256=sha256_of(temporary),
                    content_sha256=content_digest(temporary),
                    signed_by=signed_by.fingerprint,
                    bytes=temporary.stat().st_size,
                    definition_sha256=key,
                    base=BaseOrigin.model_validate(base.lock_entry()),
                    compression=COMPRESSION,
                    builder=f"{docker}{builder.engine.name} {builder.engine.version}",
                    via=via,
                    built_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                    git_revision=git_revision(project.root),
                )
                self.catalog.publish(temporary, manifest)
            finally:
                temporary.unlink(missing_ok=True)
        builder.progress(f"{name}: published {manifest.sha256[:12]}, {manifest.bytes / 1e6:.0f} MB")
        return manifest

    def _keys(self) -> tuple[SigningKey, list[PublicKey]]:
        """This person's key, and those the catalog trusts: the first to build into a catalog founds its trust."""
        signer = signing_key(os.environ)
        trusted = trusted_keys(self.catalog.keys)
        if not trusted:
            trusted = [trust(signer.public_pem, self.catalog.keys, str(signer.path))]
        if signer.fingerprint not in {public.fingerprint for public in trusted}:
            raise UserError(
                f"this catalog does not trust your key {signer.fingerprint}",
                where=str(self.catalog.keys),
                fix="who keeps it runs `harness key --trust FILE` with what `harness key --public` prints for you",
            )
        return signer, trusted

    def _sweep(self, name: str) -> None:
        """Remove what killed builders left behind; we hold the name's lock, so nobody is writing there."""
        for path in self.catalog.leftovers(name):
            self.images.progress(f"{name}: removing a leftover of a killed build, {path.name}")
            path.unlink(missing_ok=True)


def git_revision(root: Path) -> str | None:
    """The checkout's commit, with ``-dirty`` where files were changed; None outside git."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None
