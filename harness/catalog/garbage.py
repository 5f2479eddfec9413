"""Removing what nobody needs any more, and going back to what was there before."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.catalog.catalog import LAYER, PUBLISHING, STACK, WHOLE, Catalog
from harness.catalog.manifest import Manifest
from harness.errors import UserError
from harness.lease import Progress


@dataclass(frozen=True)
class Removed:
    """Something that was removed, or would be."""

    path: Path
    bytes: int


def collect(
    catalog: Catalog, in_use: Collection[str], progress: Progress, *, keep: int, remove: bool
) -> Iterator[Removed]:
    """Remove images, then the stacks that no image is left to need, then what killed builds left.

    Kept are, of each name: the current image, the newest ``keep`` ones, and those that runs use.

    Args:
        in_use: digests of images that runs need which have not ended.
        remove: False to change nothing and only say what would go.

    An image whose manifest cannot be read stays, and so does the stack that it leads to; where not even that can be
    known, all stacks stay.
    """
    doomed: set[str] = set()
    for name in catalog.names():
        with catalog.holding(name, progress):
            current, versions = catalog.current_digest(name), catalog.versions(name)
            kept = {m.sha256 for m in versions[:keep]} | set(in_use) | ({current} if current else set())
            for manifest in versions:
                if manifest.sha256 not in kept:
                    doomed.add(manifest.sha256)
                    yield Removed(catalog.version(name, manifest.sha256), manifest.own_bytes)
                    if remove:
                        catalog.remove(name, manifest.sha256)
            if remove:
                catalog.sweep(catalog.leftovers(name), progress)
    # Builders take the two leases in this order too. Who holds the second may just have found a stack to stand on.
    with catalog.holding(PUBLISHING, progress):
        staying = [m for name in catalog.names() for m in catalog.versions(name) if m.sha256 not in doomed]
        needed = {m.stack_image.sha256 for m in staying if m.stack_image}
        is_known = True
        for name in catalog.names():
            for sha256, error in catalog.unreadable(name).items():
                progress(f"note: it stays, with its stack: {error}")
                stack = _stack_of(catalog.version(name, sha256))
                needed |= {stack} if stack else set()
                is_known &= stack is not None
        for path in sorted(catalog.stacks.glob("*/*.sif")):
            if is_known and path.stem not in needed:
                yield Removed(path, path.stat().st_size)
                if remove:
                    catalog.remove_stack(path.parent.name, path.stem)
        if remove:
            catalog.sweep(catalog.stack_leftovers(), progress)


def _stack_of(folder: Path) -> str | None:
    """Digest of the stack that an image's link leads to, empty for an image that is one file; None: nobody knows."""
    link = folder / STACK
    if link.is_symlink():
        return link.readlink().stem
    return "" if (folder / WHOLE).exists() and not (folder / LAYER).exists() else None


def linked_files(catalog: Catalog) -> frozenset[tuple[int, int]]:
    """Device and inode of every file that a published image leads to, by a link or by a second name."""
    found = set()
    for path in [*catalog.images.glob("*/*/*.sif"), *catalog.stacks.glob("*/*.sif")]:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # removed since it was listed, or a link that leads nowhere
        found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def rollback(catalog: Catalog, name: str, progress: Progress, sha256: str | None = None) -> Manifest:
    """Make an older image current again: the one built before the current one, or the one whose digest is given.

    Args:
        sha256: the digest, or its beginning.

    Raises:
        UserError: there is none, or several begin like that. HarnessError: it is damaged; the current one stays.
    """
    with catalog.holding(name, progress) as held:
        versions, current = catalog.versions(name), catalog.current_digest(name)
        if current is None:
            raise UserError(f"there is no image '{name}'", fix=f"valid: {', '.join(catalog.names()) or 'none'}")
        if sha256 is None:
            digests = [m.sha256 for m in versions]  # where the current one cannot be read: the newest that can
            found = versions[digests.index(current) + 1 if current in digests else 0 :][:1]
        else:
            found = [m for m in versions if m.sha256.startswith(sha256)]
        if len(found) != 1:
            what = "no older image" if not found else f"several images that begin with {sha256}"
            there = ", ".join(m.sha256[:12] for m in versions)
            raise UserError(f"there {'is' if not found else 'are'} {what} of '{name}'", fix=f"published: {there}")
        catalog.verify(found[0])
        held.check()
        catalog.flip(name, found[0].sha256)
    return found[0]
