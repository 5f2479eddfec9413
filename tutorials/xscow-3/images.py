"""A folder of images as batches on the device.

An image is decoded once, on the CPU, to a square of bytes. Sets that fit are decoded before training and stay in the
device's memory. Larger ones are decoded by worker processes while the device computes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from crops import Cutting, moved
from folder import Listing, list_both, write_digits
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from harness.runtime import DataError, find_data

FOLDERS = ("imagenet", "ImageNet", "imagenet/ILSVRC/Data/CLS-LOC")
CHECKED = 2000  # images of each part of a large set that are decoded before training starts


def decode(path: Path, size: int) -> np.ndarray:
    """The image as a square: bytes of shape (size, size, 3).

    Raises:
        DataError: not an image, truncated, cannot be read.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (size, size))  # a large JPEG is decoded at a half, quarter or eighth of its size
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: no image, or a damaged one: {error}") from error


def decode_all(paths: list[Path], size: int, threads: int) -> Tensor:
    """All images as bytes of shape (n, 3, size, size). Pillow decodes outside Python's lock, so threads help."""
    images = torch.empty(len(paths), size, size, 3, dtype=torch.uint8)
    with ThreadPoolExecutor(threads) as pool:
        for row, image in enumerate(pool.map(lambda path: decode(path, size), paths)):
            images[row] = torch.from_numpy(image.copy())
    return images.permute(0, 3, 1, 2)


class Resident:
    """Images that stay in the device's memory."""

    def __init__(self, listing: Listing, size: int, threads: int, device: torch.device) -> None:
        self._images = decode_all(listing.paths, size, threads).to(device)
        self._labels = torch.tensor(listing.labels, device=device)

    def batches(self, rows: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for some in rows:
            chosen = moved(some, self._labels.device)
            yield self._images[chosen], self._labels[chosen]


class Streamed:
    """Images that are decoded while the device computes, by ``workers`` processes (0: by this one)."""

    def __init__(self, listing: Listing, size: int, workers: int, device: torch.device) -> None:
        self._listing, self._size, self._workers, self._device = listing, size, workers, device

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor] | DataError:
        """What a worker does for one batch. An error is handed over: raised, it would arrive as a traceback."""
        try:
            images = [decode(self._listing.paths[row], self._size) for row in rows]
        except DataError as error:
            return error
        labels = torch.tensor([self._listing.labels[row] for row in rows])
        return torch.from_numpy(np.stack(images)), labels

    def batches(self, rows: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        cuda = self._device.type == "cuda"
        loader = DataLoader(
            self, batch_sampler=[some.tolist() for some in rows], num_workers=self._workers,
            collate_fn=lambda batch: batch, pin_memory=cuda, prefetch_factor=4 if self._workers else None,
        )  # fmt: skip
        for batch in loader:
            if isinstance(batch, DataError):
                raise DataError(f"{batch} (of a large set, only {CHECKED} images are looked at before the training)")
            images, labels = (part.to(self._device, non_blocking=True) for part in batch)
            yield images.permute(0, 3, 1, 2), labels


class Data(NamedTuple):
    """Training and validation images."""

    source: str
    train: Resident | Streamed
    test: Resident | Streamed
    n_train: int
    n_test: int
    classes: int
    cutting: Cutting


def load_data(size: int, max_images: int, resident_gb: float, workers: int, device: torch.device) -> Data:
    """The site's ImageNet, else scikit-learn's digits as a folder of JPEG files; at most ``max_images`` of each part.

    Raises:
        DataError: the folder is there but incomplete, or an image that was looked at is broken: all of a resident set;
            of a streamed one CHECKED of each part, evenly spaced. Any other ends the training when its turn comes.
    """
    root, threads = find_data(*FOLDERS), max(1, workers)
    if root is None:
        with tempfile.TemporaryDirectory() as folder:
            parts = [part.evenly(max_images) for part in list_both(write_digits(Path(folder), size))]
            train, test = (Resident(part, size, threads, device) for part in parts)
        source, cutting = "digits", Cutting(smallest=0.6, mirrored=False)
    else:
        parts = [part.evenly(max_images) for part in list_both(root)]
        source, cutting = "imagenet", Cutting(smallest=0.08, mirrored=True)
        if sum(len(part.paths) for part in parts) * 3 * size * size <= resident_gb * 2**30:
            train, test = (Resident(part, size, threads, device) for part in parts)
        else:
            for part in parts:
                decode_all(part.evenly(CHECKED).paths, size, threads)
            train, test = (Streamed(part, size, workers, device) for part in parts)
    counts = [len(part.paths) for part in parts]
    return Data(source, train, test, *counts, len(parts[0].classes), cutting)
