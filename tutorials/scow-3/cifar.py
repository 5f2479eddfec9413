"""CIFAR-10 as tensors on the device, and its augmentation there.

All 60,000 images are 184 MB: they are copied to the device once, as bytes. A loader that cuts, mirrors and copies them
one by one, as is often shown, keeps the device waiting for most of the time.
"""

from __future__ import annotations

import pickle
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from harness.runtime import DataError, find_data

FOLDERS = ("cifar-10-batches-py", "cifar10/cifar-10-batches-py", "cifar10")
TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILES = ("test_batch",)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training images, scaled to 0..1
SIZE, BORDER = 32, 4  # pixels
DIGITS_TEST_SHARE, SPLIT_SEED = 0.2, 42


class Data(NamedTuple):
    """Images of shape (n, 3, 32, 32), bytes; labels of shape (n,). ``mirrored``: a mirrored image is as good."""

    source: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mirrored: bool


class Moves(NamedTuple):
    """How each image of an epoch is moved: rows and columns from 0 to 8 (4 is the centre), and whether mirrored."""

    rows: Tensor
    columns: Tensor
    mirror: Tensor

    @classmethod
    def draw(cls, count: int, mirrored: bool, source: torch.Generator, device: torch.device) -> Moves:
        """Drawn on the CPU, where the same seed gives the same numbers for every kind and number of devices."""
        rows, columns = torch.randint(0, 2 * BORDER + 1, (2, count), generator=source).to(device)
        mirror = torch.randint(0, 2 if mirrored else 1, (count,), generator=source).to(device)
        return cls(rows, columns, mirror.bool())

    def of(self, chosen: slice) -> Moves:
        return Moves(self.rows[chosen], self.columns[chosen], self.mirror[chosen])


def load_data(max_images: int, device: torch.device) -> Data:
    """CIFAR-10 where the site has it, else scikit-learn's handwritten digits; at most ``max_images`` of each part."""
    folder = find_data(*FOLDERS)
    if folder is None:
        parts, source = digits(), "digits"
    else:
        parts, source = [*read_batches(folder, TRAIN_FILES), *read_batches(folder, TEST_FILES)], "cifar10"
    parts = [part[: max_images or None].to(device) for part in parts]
    return Data(source, *parts, mirrored=source == "cifar10")


def digits() -> list[Tensor]:
    """1,797 real 8 x 8 digits enlarged to 32 x 32 in three equal colours, split by class: images and labels, twice."""
    images, labels = load_digits(return_X_y=True)
    small = torch.tensor(images / 16 * 255, dtype=torch.float32).reshape(-1, 1, 8, 8)
    large = F.interpolate(small, size=(SIZE, SIZE), mode="bilinear", align_corners=False).byte().repeat(1, 3, 1, 1)
    train, test = train_test_split(
        range(len(labels)), test_size=DIGITS_TEST_SHARE, stratify=labels, random_state=SPLIT_SEED
    )
    return [large[train], torch.tensor(labels[train]), large[test], torch.tensor(labels[test])]


def read_batches(folder: Path, names: tuple[str, ...]) -> list[Tensor]:
    """Images and labels of the files ``names``, one after the other."""
    batches = [read_batch(folder / name) for name in names]
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def read_batch(path: Path) -> tuple[Tensor, Tensor]:
    """One file of CIFAR-10's "python version": a pickled dict of an array (n, 3072) of bytes and n labels.

    Raises:
        DataError: missing, truncated, or something else.
    """
    try:
        with path.open("rb") as stream:
            content = _ArraysOnly(stream, encoding="bytes").load()
        images, labels = np.asarray(content[b"data"]), np.asarray(content[b"labels"])
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; the data set is incomplete") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # what a broken pickle raises is anybody's guess
        raise DataError(f"{path}: truncated, damaged, or no batch of CIFAR-10 ({error})") from error
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 3 * SIZE * SIZE or not len(images):
        raise DataError(f"{path}: holds {images.dtype} {images.shape}, a batch of CIFAR-10 holds uint8 (10000, 3072)")
    if labels.shape != (len(images),) or labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{path}: its labels do not fit: {len(images)} numbers from 0 to 9 are needed")
    return torch.tensor(images).reshape(-1, 3, SIZE, SIZE), torch.tensor(labels, dtype=torch.long)


class _ArraysOnly(pickle.Unpickler):
    """Unpickling runs any function a file names. These files need NumPy's arrays and nothing else."""

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        super().__init__(stream, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        if (module.split(".")[0], name) in {("numpy", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def augmented(images: Tensor, moves: Moves) -> Tensor:
    """Images (n, 3, 32, 32) as bytes, moved by up to four pixels and mirrored, normalised, channels last."""
    steps = torch.arange(SIZE, device=images.device)
    rows = moves.rows[:, None] + steps
    columns = moves.columns[:, None] + torch.where(moves.mirror[:, None], steps.flip(0), steps)
    padded = F.pad(images, (BORDER,) * 4)
    each = torch.arange(len(images), device=images.device)[:, None, None]
    return normalised(padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2))


def normalised(images: Tensor) -> Tensor:
    mean, std = statistics(images.device)
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


@cache
def statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a colour, once per device: each copy to a GPU makes the program wait for it."""
    mean, std = (torch.tensor(values, device=device)[:, None, None] * 255 for values in (MEAN, STD))
    return mean, std
