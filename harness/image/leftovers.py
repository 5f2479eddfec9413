"""What killed builds left in a cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.image.driver import remove_tree
from harness.owner import is_abandoned


def leftovers(cache: Path) -> Iterator[Path]:
    """Folders and files of builds that have ended without removing them; those of running ones are none."""
    for path in sorted([*cache.glob("tmp/*"), *cache.glob("stages/.building-*")]):
        if is_abandoned(path):
            yield path


def remove_leftover(path: Path) -> None:
    """Remove one of them."""
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)
