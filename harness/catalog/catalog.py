"""Publishing images and finding them again.

Layout, below the catalog's root::

    stacks/<stack>/<sha256>.sif, .json      a stack, named by its content, once for all tutorials on it; its manifest
    images/<name>/<sha256>/layer.sif        a tutorial's own layer; the folder is named by its content
    images/<name>/<sha256>/stack.sif        link to the stack it needs
    images/<name>/<sha256>/image.sif        instead of these two, an image that is one file
    images/<name>/<sha256>/manifest.json
    images/<name>/current                   link to the folder of the image that jobs use
    **/.building-*                          being written; nothing yet
    keys/*.pem                              public keys: images signed by one of them are this catalog's
    .leases/<name>                          who is building what

Files are written aside, made durable and renamed, the manifest with the image; ``current`` is flipped last, by a
rename. So a reader, and whoever comes after a crash, sees the old image or the new one. A job resolves ``current``
once.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from harness.catalog.manifest import Manifest, StackManifest
from harness.errors import HarnessError, UserError
from harness.files import fsync_folder, sha256_of, write_whole
from harness.lease import Lease, Progress, lease

LAYER, STACK, WHOLE, MANIFEST = "layer.sif", "stack.sif", "image.sif", "manifest.json"
CURRENT = "current"
PUBLISHING = "publishing"
_BUILDING = ".building-"

AnyManifest = TypeVar("AnyManifest", bound=BaseModel)


@dataclass(frozen=True)
class ImageFiles:
    """The files that make up one image.

    Attributes:
        main: the layer, or the whole image.
        stack: the stack below a layer, or None.
    """

    main: Path
    stack: Path | None = None

    @property
    def engine_arguments(self) -> list[str]:
        """What `apptainer run`, `exec` and `shell` want in place of one image's file."""
        return [str(self.main)] if self.stack is None else ["--overlay", f"{self.main}:ro", str(self.stack)]


@dataclass(frozen=True)
class Catalog:
    """A catalog folder. It need not exist yet."""

    root: Path

    @property
    def keys(self) -> Path:
        """The folder of the public keys that this catalog trusts."""
        return self.root / "keys"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def stacks(self) -> Path:
        return self.root / "stacks"

    def folder(self, name: str) -> Path:
        return self.images / name

    def version(self, name: str, sha256: str) -> Path:
        """The folder of one image."""
        return self.folder(name) / sha256

    def manifest_file(self, name: str, sha256: str) -> Path:
        return self.version(name, sha256) / MANIFEST

    def current_link(self, name: str) -> Path:
        return self.folder(name) / CURRENT

    def stack_file(self, stack: str, sha256: str) -> Path:
        return self.stacks / stack / f"{sha256}.sif"

    def files(self, manifest: Manifest) -> ImageFiles:
        """Where a published image's files are."""
        return _files_in(self.version(manifest.name, manifest.sha256), shared=manifest.stack_image is not None)

    def current_files(self, name: str) -> ImageFiles | None:
        """The current image's files by the names that stay when it is replaced: what a person types."""
        manifest = self.current(name)
        return _files_in(self.current_link(name), shared=manifest.stack_image is not None) if manifest else None

    def holding(self, name: str, progress: Progress) -> contextlib.AbstractContextManager[Lease]:
        """The right to build, publish and remove images of that name, among all who use the catalog.

        Raises:
            LeaseLostError, UserError: see :func:`harness.lease.lease`.
        """
        return lease(self.root / ".leases", name, progress)

    # --- finding ------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Names of all images."""
        return sorted(path.name for path in self.images.iterdir() if path.is_dir()) if self.images.is_dir() else []

    def current_digest(self, name: str) -> str | None:
        """Digest of the image jobs use, whether it is whole or not; None where none is published."""
        try:
            return self.current_link(name).readlink().name
        except FileNotFoundError:
            return None

    def current(self, name: str) -> Manifest | None:
        """Manifest of the image jobs use, or None where none is published.

        Raises:
            HarnessError: there is an image but its manifest is missing or broken.
        """
        sha256 = self.current_digest(name)
        return None if sha256 is None else self.manifest(name, sha256)

    def manifest(self, name: str, sha256: str) -> Manifest:
        """Manifest of one image.

        Raises:
            HarnessError: missing or broken.
        """
        return _read_manifest(self.manifest_file(name, sha256), Manifest, build_again(name))

    def find(self, name: str, sha256: str) -> Manifest | None:
        """Manifest of the image with that digest, or of which the self-contained file has it; None where none has.

        Raises:
            HarnessError: its manifest is broken.
        """
        if sha256 and self.manifest_file(name, sha256).is_file():
            return self.manifest(name, sha256)
        return next((m for m in self.versions(name) if m.whole_sha256 == sha256), None)

    def versions(self, name: str) -> list[Manifest]:
        """Manifests of all images of that name, newest first, but for those of :meth:`unreadable`."""
        found = (self._manifest_or_error(name, sha256) for sha256 in self._digests(name))
        return sorted((m for m in found if isinstance(m, Manifest)), key=lambda m: m.built_at, reverse=True)

    def unreadable(self, name: str) -> dict[str, HarnessError]:
        """Images of that name whose manifest is missing or broken: digest -> what is wrong."""
        found = {sha256: self._manifest_or_error(name, sha256) for sha256 in self._digests(name)}
        return {sha256: error for sha256, error in found.items() if isinstance(error, HarnessError)}

    def _digests(self, name: str) -> list[str]:
        folder = self.folder(name)
        if not folder.is_dir():
            return []
        return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.is_symlink() and p.name[0] != ".")

    def _manifest_or_error(self, name: str, sha256: str) -> Manifest | HarnessError:
        try:
            return self.manifest(name, sha256)
        except HarnessError as error:
            return error

    def has_images(self) -> bool:
        """Whether an image of any name is published, whole or not."""
        return any(self._digests(name) for name in self.names())

    def stack_manifests(self, stack: str) -> Iterator[StackManifest | HarnessError]:
        """Manifests of the published states of a stack; in the place of a broken one, what is wrong with it."""
        for path in sorted((self.stacks / stack).glob("*.json")):
            try:
                yield _read_manifest(path, StackManifest, "a build of an image on it writes it again")
            except HarnessError as error:
                yield error

    def images_on(self, stack_sha256: str) -> list[str]:
        """Names of the images whose current state needs that stack."""
        found = []
        for name in self.names():
            current = self.current_digest(name)
            on = {m.sha256: m.stack_image.sha256 for m in self.versions(name) if m.stack_image}
            if current is not None and on.get(current) == stack_sha256:
                found.append(name)
        return found

    # --- publishing ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def temporary(self, folder: Path) -> Iterator[Path]:
        """A path in ``folder`` to write to before it is renamed; removed in the end where it was not."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{_BUILDING}{os.getpid()}-{secrets.token_hex(4)}"
        try:
            yield path
        finally:
            _remove(path)

    def leftovers(self, name: str) -> list[Path]:
        """What builders of that name are writing, or left when they were killed."""
        return sorted(self.folder(name).glob(f"{_BUILDING}*"))

    def stack_leftovers(self) -> list[Path]:
        """The same for stacks; they are written by who holds the lease ``publishing``."""
        return sorted(self.stacks.glob(f"*/{_BUILDING}*"))

    def sweep(self, paths: list[Path], progress: Progress) -> None:
        """Remove what killed builders left; the caller holds the lease under which such files are written."""
        for path in paths:
            progress(f"{path.parent.name}: removing a leftover of a killed build, {path.name}")
            _remove(path)

    def publish_stack(self, temporary: Path, manifest: StackManifest) -> Path:
        """Give a finished stack its name.

        Raises:
            OSError: no space.
        """
        path = self.stack_file(manifest.name, manifest.sha256)
        write_whole(path.with_suffix(".json"), manifest.model_dump_json(indent=1) + "\n")
        _make_durable(temporary)
        temporary.replace(path)
        fsync_folder(path.parent)
        return path

    def publish(self, file: Path, manifest: Manifest, check: Callable[[], None] = lambda: None) -> Path:
        """Make a finished, tested image current: its layer, or the whole file, which may lie on another file system.

        Args:
            check: called right before others see the image, and again before jobs use it; raises to prevent that.

        Returns:
            Its folder.

        Raises:
            HarnessError: the file is not the one the manifest describes. OSError: no space.
        """
        folder = self.version(manifest.name, manifest.sha256)
        main = LAYER if manifest.stack_image else WHOLE
        with self.temporary(folder.parent) as aside:
            aside.mkdir()
            shutil.copyfile(file, aside / main)
            actual = sha256_of(aside / main)
            if actual != manifest.sha256:
                raise HarnessError(f"content is {actual}, the manifest says {manifest.sha256}", where=str(file))
            if manifest.stack_image:
                target = self.stack_file(manifest.stack_image.name, manifest.stack_image.sha256)
                (aside / STACK).symlink_to(os.path.relpath(target, folder))
            _make_durable(aside / main)
            write_whole(aside / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
            check()
            if folder.is_dir():  # published before, perhaps damaged since; each file is replaced whole
                for path in aside.iterdir():
                    path.replace(folder / path.name)
            else:
                aside.replace(folder)
            fsync_folder(folder)
            fsync_folder(folder.parent)
        check()
        self.flip(manifest.name, manifest.sha256)
        return folder

    def flip(self, name: str, sha256: str) -> None:
        """Make a published image current."""
        link = self.current_link(name)
        with self.temporary(link.parent) as aside:
            aside.symlink_to(sha256)
            aside.replace(link)
        fsync_folder(link.parent)

    def remove(self, name: str, sha256: str) -> None:
        """Remove an image. It vanishes whole: who opened its files before keeps them, nobody opens half of it."""
        with self.temporary(self.folder(name)) as aside:
            self.version(name, sha256).replace(aside)

    def remove_stack(self, stack: str, sha256: str) -> None:
        """Remove a stack that no image needs."""
        path = self.stack_file(stack, sha256)
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)

    def verify(self, manifest: Manifest, seen: set[Path] | None = None) -> None:
        """Read all of an image and compare it with its name.

        Args:
            seen: stacks that need not be read again; this one's is added.

        Raises:
            UserError: a file is not there. HarnessError: its content is not what was published.
        """
        files, fix = self.files(manifest), build_again(manifest.name)
        expect_digest(files.main, manifest.sha256, fix)
        if manifest.stack_image and files.stack:
            stack = self.stack_file(manifest.stack_image.name, manifest.stack_image.sha256)
            if seen is None or stack not in seen:
                expect_digest(stack, manifest.stack_image.sha256, fix)
            if seen is not None:
                seen.add(stack)
            if not files.stack.exists() or not files.stack.samefile(stack):
                raise HarnessError(f"it does not lead to {stack}", where=str(files.stack), fix=fix)


def build_again(name: str) -> str:
    """The command that makes an image anew, whatever is wrong with the one that is there."""
    stem, _, variant = name.partition(".")
    return f"build it again: harness build {stem} --variant {variant or 'cuda'}"


def expect_digest(path: Path, sha256: str, fix: str) -> None:
    """Read a file and compare it with its digest.

    Args:
        fix: what to do where it is another.

    Raises:
        UserError: it is not there. HarnessError: it is another.
    """
    if not path.is_file():
        raise UserError("the image is not there", where=str(path), fix=fix)
    actual = sha256_of(path)
    if actual != sha256:
        raise HarnessError(f"damaged: content is sha256 {actual}", where=str(path), fix=fix)


def _files_in(folder: Path, *, shared: bool) -> ImageFiles:
    return ImageFiles(folder / LAYER, folder / STACK) if shared else ImageFiles(folder / WHOLE)


def _read_manifest(path: Path, kind: type[AnyManifest], fix: str) -> AnyManifest:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise HarnessError("an image without its manifest", where=str(path), fix=fix) from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise HarnessError(f"broken manifest: {where} {problem['msg']}", where=str(path), fix=fix) from error


def _make_durable(path: Path) -> None:
    with path.open("rb") as written:
        os.fsync(written.fileno())
    path.chmod(0o444)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
