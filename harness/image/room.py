"""Is there room for a build: asked before minutes of work, where the answer is known."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.errors import HarnessError

UNPACK_AND_PACK = 2
"""A build upon an image needs at least this many times the image's size: its tree, never smaller than the packed image,
and the new image of that tree. Measured on the stacks here: 3 to 4.4 times."""


def require_room(folder: Path, needed_bytes: int, name: str) -> None:
    """Refuse to start what must fail.

    Raises:
        HarnessError: fewer bytes are free where the folder is.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise HarnessError(
            f"no space left to build {name}: at least {needed_bytes / 1e6:.0f} MB are needed, "
            f"{free_bytes / 1e6:.0f} MB are free",
            where=str(folder),
            fix="harness cache gc --max-size SIZE, or set HARNESS_CACHE to a larger disk",
        )
