"""Is everything in a catalog what was published: content, signatures, and that the parts belong together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.catalog.catalog import Catalog, build_again
from harness.catalog.manifest import Manifest
from harness.errors import HarnessError
from harness.image.contents import read_lock
from harness.image.engine import Engine
from harness.image.keys import PublicKey, trusted_keys
from harness.image.parts import read_reference
from harness.image.sign import verify


def problems(catalog: Catalog, name: str, engine: Engine, seen: dict[Path, str | None]) -> Iterator[str]:
    """One line for each thing that is wrong with the images of a name; none where all is well.

    Args:
        seen: stacks that were looked at, and what is wrong with each; is added to, so that none is read twice.
    """
    keys = trusted_keys(catalog.keys)
    current = catalog.current_digest(name)
    if current is None:
        yield f"{catalog.current_link(name)}: there is no current image"
    elif not catalog.version(name, current).is_dir():
        yield f"{catalog.current_link(name)}: the current image is gone; {build_again(name)}"
    yield from map(str, catalog.unreadable(name).values())
    for manifest in catalog.versions(name):
        try:
            _check(catalog, manifest, engine, keys, seen)
        except (HarnessError, OSError) as error:
            yield str(error)


def _check(
    catalog: Catalog, manifest: Manifest, engine: Engine, keys: list[PublicKey], seen: dict[Path, str | None]
) -> None:
    files = catalog.files(manifest)
    stack = manifest.stack_image
    below = catalog.stack_file(stack.name, stack.sha256) if stack else None
    if below is not None and below not in seen:
        seen[below] = "it was being read when this stopped"
        try:
            catalog.verify(manifest)
            verify(engine, below, keys)
            seen[below] = None
        except HarnessError as error:
            seen[below] = str(error)
            raise
    if below is not None and seen[below]:
        raise HarnessError(f"its stack cannot be used: {seen[below]}", where=str(files.main))
    catalog.verify(manifest, set(seen))
    verify(engine, files.main, keys)
    reference, lock = read_reference(files.main), read_lock(files.main)
    signed = (
        reference.stack_sha256 if reference else None,
        reference.whole_sha256 if reference else manifest.sha256,
        lock.definition_sha256,
        lock.name,
    )
    written = (stack.sha256 if stack else None, manifest.whole_sha256, manifest.definition_sha256, manifest.name)
    if signed != written:
        raise HarnessError(
            "the manifest says another thing than the signed image",
            where=str(catalog.manifest_file(manifest.name, manifest.sha256)),
            fix=build_again(manifest.name),
        )
