"""Finding and reading the data sets a site may hold, with errors that name the file, before any training starts.

A data set that is not there is no error: the program falls back. One that is there but broken is an error: training on
something else than the site's administrator believes would be worse than not training.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import NamedTuple

from harness.runtime import environment
from harness.runtime.errors import DataError

# The idx format: two zero bytes, a type code, the number of dimensions, then each size as a big-endian 32-bit number.
_UNSIGNED_BYTE = 0x08
MNIST_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
# mnist/ is the site's folder; the others are how torchvision lays MNIST out below the folder it was told
MNIST_FOLDERS = ("mnist", "mnist/raw", "mnist/MNIST/raw", "MNIST/raw")


class IdxArray(NamedTuple):
    """An array of unsigned bytes: ``data`` holds ``prod(shape)`` bytes, last dimension fastest."""

    shape: tuple[int, ...]
    data: bytearray


class Mnist(NamedTuple):
    """MNIST as bytes: images of shape (n, 28, 28) from 0 to 255, labels of shape (n,) from 0 to 9."""

    train_images: IdxArray
    train_labels: IdxArray
    test_images: IdxArray
    test_labels: IdxArray


def data_root() -> Path | None:
    """The site's data root, or None where the job names none.

    Raises:
        DataError: it is named but is no folder (not mounted into the image, most often).
    """
    text = os.environ.get(environment.DATA_DIR, "")
    if not text:
        return None
    root = Path(text)
    if not root.is_dir():
        raise DataError(f"{environment.DATA_DIR} is {root}, which is no folder here; is it bound into the image?")
    return root


def find_data(*candidates: str) -> Path | None:
    """The first of ``candidates`` (files or folders, relative to the site's data root) that is there, or None."""
    root = data_root()
    if root is None:
        return None
    return next((root / name for name in candidates if (root / name).exists()), None)


def read_idx(path: Path, dimensions: int) -> IdxArray:
    """Read one idx file of unsigned bytes, gzip-compressed where its name ends in .gz.

    Raises:
        DataError: cannot be read, is no idx file of ``dimensions`` dimensions, is truncated or too long.
    """
    content = _read(path)
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise DataError(f"{path}: truncated: {len(content)} bytes, the header alone has {header}")
    if content[:4] != bytes([0, 0, _UNSIGNED_BYTE, dimensions]):
        wanted = bytes([0, 0, _UNSIGNED_BYTE, dimensions]).hex()
        raise DataError(
            f"{path}: not an idx file of {dimensions} dimension(s): starts with {content[:4].hex()}, not {wanted}"
        )
    shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions))
    expected, found = math.prod(shape), len(content) - header
    if expected == 0:
        raise DataError(f"{path}: holds nothing: its header says {' x '.join(map(str, shape))}")
    if found != expected:
        problem = "truncated" if found < expected else "too long"
        raise DataError(f"{path}: {problem}: {found} bytes of data, its header promises {expected}")
    return IdxArray(shape, bytearray(memoryview(content)[header:]))


def find_mnist() -> Mnist | None:
    """MNIST from the site's data root, or None where the site does not have it.

    Looks for the four idx files, plain or .gz, in ``mnist/`` and in torchvision's layout (``MNIST/raw/``).

    Raises:
        DataError: a folder of that name is there, but a file is missing, broken, or does not fit the others.
    """
    root = data_root()
    folders = [root / name for name in MNIST_FOLDERS if (root / name).is_dir()] if root else []
    if not folders:
        return None
    folder = next((f for f in folders if any(_idx_file(f, name) for name in MNIST_FILES.values())), folders[0])
    paths = {key: _idx_file(folder, name) for key, name in MNIST_FILES.items()}
    for key, found in paths.items():
        if found is None:
            raise DataError(f"{folder / MNIST_FILES[key]}: no such file (nor .gz); the data set is incomplete")
    present = {key: path for key, path in paths.items() if path is not None}
    arrays = {key: read_idx(path, 3 if "images" in key else 1) for key, path in present.items()}
    for part in ("train", "test"):
        _check_pair(
            arrays[f"{part}_images"], arrays[f"{part}_labels"], present[f"{part}_images"], present[f"{part}_labels"]
        )
    return Mnist(**arrays)


def read_prompt(path: Path) -> str:
    """The text of a file that somebody wrote for a model to read, without blanks around it.

    Raises:
        DataError: it is not there, is empty, or is not UTF-8 (saved by an editor as GBK or UTF-16, most often).
    """
    try:
        text = path.read_bytes().decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(f"{path}: line {line}: not UTF-8 text; save the file as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not text:
        raise DataError(f"{path}: is empty; a prompt has at least one word")
    return text


def _read(path: Path) -> bytes:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as stream:
                return stream.read()
        return path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: truncated or damaged: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _idx_file(folder: Path, name: str) -> Path | None:
    # the archive's files are also seen with a dot: train-images.idx3-ubyte
    names = (name, f"{name}.gz", name.replace("-idx", ".idx"), name.replace("-idx", ".idx") + ".gz")
    return next((folder / candidate for candidate in names if (folder / candidate).is_file()), None)


def _check_pair(images: IdxArray, labels: IdxArray, images_path: Path, labels_path: Path) -> None:
    if images.shape[1:] != (28, 28):
        raise DataError(f"{images_path}: images of {images.shape[1]} x {images.shape[2]} pixels, MNIST's have 28 x 28")
    if images.shape[0] != labels.shape[0]:
        raise DataError(
            f"{labels_path}: {labels.shape[0]} labels for the {images.shape[0]} images of {images_path.name}"
        )
    if max(labels.data) > 9:
        raise DataError(f"{labels_path}: holds the label {max(labels.data)}; digits go from 0 to 9")
