"""Looking at a model's folder before anything expensive: is it the right model, and is it whole.

Reads config.json and the first bytes of each weights file; a model of 145 GB takes milliseconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.runtime.errors import DataError

_LENGTH_BYTES = 8  # a safetensors file begins with the length of its JSON header, little-endian
_MAX_HEADER = 100_000_000  # the format's own limit


def check_model(folder: Path, model_type: str) -> dict[str, Any]:
    """The model's config.json, where it is of ``model_type`` (``qwen2``) and all its weights are there, whole.

    Raises:
        DataError: names the file and what is wrong with it.
    """
    config = _read_json(folder / "config.json")
    found = config.get("model_type")
    if found != model_type:
        raise DataError(f"{folder / 'config.json'}: the model is a '{found}', this tutorial needs a '{model_type}'")
    for path in _weight_files(folder):
        _check_safetensors(path)
    return config


def weight_bytes(folder: Path) -> int:
    """Size of all weights files of a model's folder."""
    return sum(path.stat().st_size for path in _weight_files(folder))


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = _read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise DataError(f"{index}: holds no weight_map")
        files = [folder / str(name) for name in sorted(set(names.values()))]
    else:
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise DataError(f"{folder}: holds no *.safetensors file; fetch the model again")
    for path in files:
        if not path.is_file():
            raise DataError(f"{path}: no such file, though {index.name} names it; fetch the model again")
    return files


def _check_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or not 0 < length <= _MAX_HEADER:
            raise DataError(f"{path}: is no safetensors file; fetch the model again")
        header = stream.read(length)
    if len(header) < length:
        raise DataError(f"{path}: truncated: {size} bytes, the header alone has {_LENGTH_BYTES + length}")
    try:
        tensors = json.loads(header)
        ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
    except (ValueError, AttributeError, KeyError, IndexError, TypeError):
        raise DataError(f"{path}: its header is damaged; fetch the model again") from None
    expected = _LENGTH_BYTES + length + max(ends, default=0)
    if size != expected:
        problem = "truncated" if size < expected else "too long"
        raise DataError(f"{path}: {problem}: {size} bytes, its header promises {expected}; fetch the model again")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; is this folder a model?") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: is not a JSON object")
    return content
