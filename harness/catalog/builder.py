"""From a tutorial to a published image: build aside, test, sign, take apart, publish; or nothing to do."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.catalog.catalog import PUBLISHING, Catalog, ImageFiles
from harness.catalog.fresh import broken
from harness.catalog.manifest import BaseOrigin, Manifest, StackManifest
from harness.catalog.revision import git_revision
from harness.errors import CommandError, HarnessError, UserError
from harness.files import sha256_of, utc_now
from harness.image.assembly import Assembly
from harness.image.base import BaseRecord
from harness.image.build import ImageBuilder
from harness.image.keys import PublicKey, SigningKey, signing_key, trust, trusted_keys
from harness.image.leftovers import leftovers, remove_leftover
from harness.image.parts import layer_assembly, signed_file_systems, stack_assembly, stack_fingerprint
from harness.image.sif import content_digest, read_sif, signer_ids
from harness.image.sign import seal, signed
from harness.lease import Lease
from harness.owner import sign_folder, signed_prefix
from harness.project import Variant, image_name
from harness.tutorial import Tutorial


def _accept(image: Path) -> None:
    """The default of ``before_publication``."""


def _nothing_below() -> None:
    """A whole stands on no stack of the catalog."""


@dataclass(frozen=True)
class _Made:
    """An image that is ready to be published.

    Attributes:
        main: the file, signed; a layer or a whole.
        whole_bytes, whole_sha256, content_sha256: of the whole.
        check_stack: raises HarnessError where the stack is not in the catalog any more.
    """

    main: Path
    base: BaseRecord
    sha256: str
    whole_bytes: int
    whole_sha256: str
    content_sha256: str
    stack: StackManifest | None = None
    check_stack: Callable[[], None] = _nothing_below


@dataclass(frozen=True)
class CatalogBuilder:
    """Keeps a catalog's images up to date with the checkout.

    Attributes:
        before_publication: called with an image that is built and not signed yet, or up to date; may refuse it.
        verified: stacks that were read and found whole; each is read once however many images stand on it.
    """

    images: ImageBuilder
    catalog: Catalog
    before_publication: Callable[[Path], None] = _accept
    verified: set[Path] = field(default_factory=set)

    def build(self, tutorial: Tutorial, variant: Variant, *, force: bool = False) -> Manifest:
        """Build and publish one image; one that is up to date already is only verified.

        Raises:
            SpecError: the definition cannot be made. HarnessError: the build, a test in it, or the base failed.
            LeaseLostError: somebody took this process for dead, and builds the image now.
            UserError: no usable signing key, or one that the catalog does not trust.
        """
        builder = self.images
        name = image_name(tutorial.stem, variant)
        key = builder.definitions.key(tutorial, variant)
        if not force and (current := self._up_to_date(name, key)):
            return current
        with self._explaining_a_full_disk(name), self.catalog.holding(name, builder.progress) as held:
            if not force and (current := self._up_to_date(name, key)):
                return current  # somebody else built it while we waited
            signer, trusted = self._keys()  # before the long work
            self._sweep(name)
            with self._aside(name) as work:
                builder = replace(builder, progress=_stopping(held, builder))
                image = work / f"{name}.sif"
                if builder.has_layer(tutorial, variant):
                    made = self._layered(builder, tutorial, variant, image, signer, trusted, anew=force)
                else:
                    made = self._whole(builder, tutorial, variant, image, signer, trusted)
                manifest = self._publish(tutorial, variant, key, made, signer, held)
        shared = f", {manifest.own_bytes / 1e6:.1f} MB its own" if manifest.stack_image else ""
        builder.progress(f"{name}: published {manifest.sha256[:12]}, {manifest.bytes / 1e6:.0f} MB{shared}")
        return manifest

    def _up_to_date(self, name: str, key: str) -> Manifest | None:
        """The current image, read and found whole, where it is the checkout's and a trusted key signed it.

        One that is missing, damaged or without its manifest is none: it is built again.
        """
        try:
            current = self.catalog.current(name)
        except HarnessError as error:
            self.images.progress(f"{name}: note: {broken(error)}")
            return None
        fingerprints = {public.fingerprint for public in trusted_keys(self.catalog.keys)}
        if current is None or current.definition_sha256 != key or current.signed_by not in fingerprints:
            return None
        if (current.compression, current.via) != (self.images.compression.label, self.images.via):
            return None
        if current.has_layer != self.images.use_overlay:
            return None
        try:
            self.catalog.verify(current, self.verified)
        except HarnessError as error:
            self.images.progress(f"{name}: note: {broken(error)}")
            return None
        self.before_publication(self.catalog.files(current).main)
        self.images.progress(f"{name}: up to date")
        return current

    def _whole(
        self,
        builder: ImageBuilder,
        tutorial: Tutorial,
        variant: Variant,
        image: Path,
        signer: SigningKey,
        trusted: list[PublicKey],
    ) -> _Made:
        """A self-contained image, tested and signed."""
        base = builder.build(tutorial, variant, image)
        self.before_publication(image)
        seal(builder.engine, image, signer, trusted)
        sha256 = sha256_of(image)
        return _Made(image, base, sha256, image.stat().st_size, sha256, content_digest(image))

    def _layered(
        self,
        builder: ImageBuilder,
        tutorial: Tutorial,
        variant: Variant,
        image: Path,
        signer: SigningKey,
        trusted: list[PublicKey],
        *,
        anew: bool,
    ) -> _Made:
        """A layer, signed, and tested on its stack as the catalog has it. The whole is signed and not written."""
        stage, base = builder.build_stack(tutorial.stack, variant)
        with self.catalog.holding(PUBLISHING, builder.progress):
            stack = self._stack(f"{tutorial.stack}.{variant}", stage, signer, trusted)
        below = self.catalog.stack_file(stack.name, stack.sha256)
        layer = builder.layer(tutorial, variant, stage, base)
        pieces = [*signed_file_systems(below), *layer.pieces]
        whole = signed(Assembly.of(read_sif(stage).header, pieces), signer)
        own, reference = layer_assembly(whole, stack.name, stack.sha256)
        own.write(image)
        self.before_publication(image)
        seal(builder.engine, image, signer, trusted)
        builder.test(tutorial, variant, layer, ImageFiles(image, below).engine_arguments, anew=anew)
        builder.record(tutorial, variant, stage)

        def still_there() -> None:
            if self._stack(stack.name, stage, signer, trusted) != stack:
                raise HarnessError(
                    "its stack was removed while it was built", where=str(below), fix="run the same command again"
                )

        bytes_of_whole = max(d.end for d in whole.sif.objects())
        return _Made(
            image,
            base,
            sha256_of(image),
            bytes_of_whole,
            reference.whole_sha256,
            reference.whole_content_sha256,
            stack,
            still_there,
        )

    def _publish(
        self, tutorial: Tutorial, variant: Variant, key: str, made: _Made, signer: SigningKey, held: Lease
    ) -> Manifest:
        engine, project = self.images.engine, self.images.project
        docker = f"docker {self.images.docker.version}, " if self.images.docker else ""
        manifest = Manifest(
            name=image_name(tutorial.stem, variant),
            tutorial=tutorial.id,
            stack=tutorial.stack,
            variant=variant,
            sha256=made.sha256,
            stack_image=made.stack,
            whole_sha256=made.whole_sha256,
            content_sha256=made.content_sha256,
            signed_by=signer.fingerprint,
            bytes=made.whole_bytes,
            own_bytes=made.main.stat().st_size,
            definition_sha256=key,
            base=BaseOrigin.model_validate(made.base.lock_entry()),
            compression=self.images.compression.label,
            builder=f"{docker}{engine.name} {engine.version}",
            via=self.images.via,
            built_at=utc_now(),
            git_revision=git_revision(project.root),
        )
        # Nobody removes a stack between our finding it and our image's naming it.
        with self.catalog.holding(PUBLISHING, self.images.progress) as publishing:

            def check() -> None:
                publishing.check()
                held.check()

            check()
            made.check_stack()
            self.catalog.publish(made.main, manifest, check)
        return manifest

    def _stack(self, name: str, stage: Path, signer: SigningKey, trusted: list[PublicKey]) -> StackManifest:
        """The stack that a stage is the image of, published once, whoever signed it; under the lease ``publishing``."""
        self.catalog.sweep(self.catalog.stack_leftovers(), self.images.progress)
        fingerprint = self.images.stages.fingerprint(stage.stem, lambda: stack_fingerprint(stage))
        known = {public.fingerprint for public in trusted}
        damaged: list[Path] = []
        for manifest in self.catalog.stack_manifests(name):
            if isinstance(manifest, HarnessError):
                self.images.progress(f"{name}: note: {manifest}")
                continue
            path = self.catalog.stack_file(name, manifest.sha256)
            if manifest.fingerprint != fingerprint or not path.is_file():
                continue
            if path not in self.verified and sha256_of(path) != manifest.sha256:
                damaged.append(path)
                continue
            self.verified.add(path)
            if known.intersection(signer_ids(path)):
                return manifest
        made = self._new_stack(name, stage, fingerprint, signer, trusted)
        for path in damaged:
            self._say_mended(name, path, self.catalog.stack_file(name, made.sha256))
        return made

    def _say_mended(self, name: str, damaged: Path, made: Path) -> None:
        """Equal file systems signed with one key are one file, so what stood on a damaged stack is whole again."""
        if damaged == made:
            self.images.progress(f"{name}: note: a damaged stack was replaced, {damaged.name}")
            return
        images = ", ".join(self.catalog.images_on(damaged.stem)) or "none"
        self.images.progress(
            f"{name}: note: {damaged} is damaged and another key signed it; images on it that must be built again:"
            f" {images}"
        )

    def _new_stack(
        self, name: str, stage: Path, fingerprint: str, signer: SigningKey, trusted: list[PublicKey]
    ) -> StackManifest:
        with self.catalog.temporary(self.catalog.stacks / name) as temporary:
            stack_assembly(stage).write(temporary)
            if stack_fingerprint(temporary) != fingerprint:
                stage.unlink(missing_ok=True)
                raise HarnessError(
                    "this stage was not as it was built, and was removed from the cache",
                    where=str(stage),
                    fix="run the same command again: it builds the stage anew",
                )
            seal(self.images.engine, temporary, signer, trusted)
            manifest = StackManifest(
                name=name,
                sha256=sha256_of(temporary),
                fingerprint=fingerprint,
                signed_by=signer.fingerprint,
                bytes=temporary.stat().st_size,
            )
            self.verified.add(self.catalog.publish_stack(temporary, manifest))
        return manifest

    def _keys(self) -> tuple[SigningKey, list[PublicKey]]:
        """This person's key, and those the catalog trusts: the first to build into a catalog founds its trust.

        Only into an empty one: where images are and no key is, somebody took the keys away.
        """
        signer = signing_key(os.environ)
        trusted = trusted_keys(self.catalog.keys)
        if not trusted and self.catalog.has_images():
            raise UserError(
                "this catalog holds images and trusts no key",
                where=str(self.catalog.keys),
                fix="who keeps it runs `harness key --trust FILE`; a builder's `harness key --public` prints the file",
            )
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
        """Remove what killed builders left: in the catalog, whose lease we hold, and of the dead ones in the cache."""
        self.catalog.sweep(self.catalog.leftovers(name), self.images.progress)
        for path in leftovers(self.images.cache):
            self.images.progress(f"{name}: removing a leftover of a killed build, {path.name}")
            try:
                remove_leftover(path)
            except PermissionError:
                self.images.progress(f"{name}: note: {path} is somebody else's and stays")

    @contextlib.contextmanager
    def _aside(self, name: str) -> Iterator[Path]:
        """A folder in the cache, on a local disk; the catalog gets finished files only."""
        folder = self.images.cache / "tmp" / f"{signed_prefix(f'publish-{name}-')}{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        try:
            sign_folder(folder)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def _explaining_a_full_disk(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, CommandError) as error:
            is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            says_full = isinstance(error, CommandError) and "no space left on device" in error.output.lower()
            if not (is_full or says_full):
                raise
            raise HarnessError(
                f"no space left while publishing {name}; what is published stays as it was",
                where=f"{self.catalog.root} or {self.images.cache}",
                fix="harness catalog gc, or set HARNESS_CACHE and CATALOG to larger disks",
            ) from error


def _stopping(held: Lease, builder: ImageBuilder) -> Callable[[str], None]:
    """The builder's progress, which ends the build at its next line of output when the lease was lost."""

    def progress(line: str) -> None:
        if held.lost:
            held.check()
        builder.progress(line)

    return progress
