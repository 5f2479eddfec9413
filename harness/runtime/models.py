"""Finding the models a site may hold."""

from __future__ import annotations

import os
from pathlib import Path

from harness.runtime import environment
from harness.runtime.errors import DataError


def model_folder(names: list[str]) -> Path | None:
    """The first of the folders ``names`` that exists below the site's models root, or None.

    Raises:
        DataError: the root is named but is no folder here.
    """
    text = os.environ.get(environment.MODELS_DIR, "")
    if not text:
        return None
    root = Path(text)
    if not root.is_dir():
        raise DataError(f"{environment.MODELS_DIR} is {root}, which is no folder here; is it bound into the image?")
    return next((root / name for name in names if (root / name).is_dir()), None)
