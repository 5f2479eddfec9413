"""Finding the models a site may hold, and looking at them before they are loaded, which takes minutes."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.runtime import environment
from harness.runtime.errors import ModelError

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt")
_MAX_HEADER = 100_000_000  # of a safetensors file: the format's own limit
_LFS_POINTER = b"version https://git-lfs"  # what a clone without git-lfs leaves where the weights belong


def models_root() -> Path | None:
    """The site's models root, or None where the job names none.

    Raises:
        ModelError: it is named but is no folder (not mounted into the image, most often).
    """
    text = os.environ.get(environment.MODELS_DIR, "")
    if not text:
        return None
    root = Path(text)
    if not root.is_dir():
        raise ModelError(f"{environment.MODELS_DIR} is {root}, which is no folder here; is it bound into the image?")
    return root


def model_folder(names: Sequence[str]) -> Path | None:
    """The first of the folders ``names`` (relative to the site's models root) that is there, or None."""
    root = models_root()
    if root is None:
        return None
    return next((root / name for name in names if (root / name).is_dir()), None)


def check_model(
    folder: Path, model_types: Iterable[str], files: Sequence[str] = (), *, says: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Look at a model without loading it; its config.json.

    Args:
        model_types: what ``model_type`` of its config.json may be: another architecture is refused.
        files: must be there besides config.json and at least one file of weights.
        says: what config.json must say: another model of the same architecture would load, and answer something else.

    Raises:
        ModelError: a file is missing, is no model, is cut short, or the model is of another architecture or size.
    """
    config = _read_config(folder / "config.json")
    wanted = list(model_types)
    if config.get("model_type") not in wanted:
        raise ModelError(f"{folder}: is a '{config.get('model_type')}' model, this program needs {' or '.join(wanted)}")
    weights = [path for path in sorted(folder.iterdir()) if path.suffix in WEIGHT_SUFFIXES]
    missing = [name for name in files if not (folder / name).is_file()] + ([] if weights else ["*.safetensors"])
    missing += [name for name in _indexed(folder) if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder / missing[0]}: no such file; the model is incomplete")
    for path in weights:
        check_weights(path)
    for key, value in (says or {}).items():
        if config.get(key) != value:
            raise ModelError(f"{folder}: its {key} is {config.get(key)}, that of the tutorial's model is {value}")
    return config


def weight_bytes(folder: Path) -> int:
    """Size of a model's weights: the shards its index names, else all its ``*.safetensors``."""
    shards = [folder / name for name in _indexed(folder)] or list(folder.glob("*.safetensors"))
    return sum(path.stat().st_size for path in shards)


def check_weights(path: Path) -> None:
    """Refuse a file of weights that is cut short or is none; reads a few kilobytes of it.

    Raises:
        ModelError: says which it is.
    """
    with path.open("rb") as stream:
        start = stream.read(64)
        if start.startswith(_LFS_POINTER):
            raise ModelError(f"{path}: is a git-lfs pointer, not the weights; fetch the file itself")
        if path.suffix != ".safetensors":
            if start.startswith(b"PK") and not zipfile.is_zipfile(path):
                raise ModelError(f"{path}: truncated: its table of contents, at the end, is missing")
            return
        # The format: the header's length as a little-endian 64-bit number, a JSON header, then the tensors' bytes.
        size = path.stat().st_size
        length = int.from_bytes(start[:8], "little")
        if size >= 8 and not 0 < length <= _MAX_HEADER:
            raise ModelError(f"{path}: not a safetensors file: a header of {length} bytes")
        if size < 8 + length:
            raise ModelError(f"{path}: truncated: {size} bytes, its header alone promises {8 + length}")
        stream.seek(8)
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise ModelError(f"{path}: not a safetensors file: {error}") from error
    if not ends:
        raise ModelError(f"{path}: holds no tensors")
    if size != 8 + length + max(ends):
        problem = "truncated" if size < 8 + length + max(ends) else "too long"
        raise ModelError(f"{path}: {problem}: {size} bytes, its header promises {8 + length + max(ends)}")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; the model is incomplete") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: not a model's configuration")
    return config


def _indexed(folder: Path) -> list[str]:
    """The shards that an index in ``folder`` names; empty for a model in one file."""
    path = folder / "model.safetensors.index.json"
    if not path.is_file():
        return []
    shards = _read_config(path).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelError(f"{path}: holds no weight_map")
    return sorted({str(name) for name in shards.values()})
