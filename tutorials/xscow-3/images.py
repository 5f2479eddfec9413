"""A folder of images as batches on the device: train/CLASS/*.JPEG and val/CLASS/*.JPEG, as ImageNet is laid out.

An image is decoded once, on the CPU, to a square of bytes; cutting, mirroring and normalising happen on the device, for
a whole batch at once. Sets that fit are decoded before training and stay in the device's memory. Larger ones are
decoded by worker processes while the device computes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import DataLoader

from harness.runtime import DataError, find_data

FOLDERS = ("imagenet", "ImageNet", "imagenet/ILSVRC/Data/CLS-LOC")
SUFFIXES = (".jpeg", ".jpg", ".png")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images, scaled to 0..1
CHECKED = 2000  # images of a large set that are decoded before training starts
DIGITS_TEST_SHARE, SPLIT_SEED = 0.2, 42


class Listing(NamedTuple):
    """Files and their classes, as numbers in the order of the classes' names."""

    paths: list[Path]
    labels: list[int]
    classes: list[str]

    def evenly(self, count: int) -> Listing:
        """At most ``count`` of them (0: all), evenly spaced, so that every class keeps its share."""
        total = len(self.paths)
        kept = range(total) if not 0 < count < total else [number * total // count for number in range(count)]
        return Listing([self.paths[k] for k in kept], [self.labels[k] for k in kept], self.classes)


def list_images(folder: Path) -> Listing:
    """The images of ``folder``/CLASS/.

    Raises:
        DataError: no such folder, no classes, a class without images, an empty file.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; a data set of images has train/CLASS/ and val/CLASS/")
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if len(classes) < 2:
        raise DataError(f"{folder}: {len(classes)} class folders; at least two are needed to tell images apart")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(entry.name for entry in os.scandir(folder / name) if entry.name.lower().endswith(SUFFIXES))
        if not found:
            raise DataError(f"{folder / name}: holds no images ({', '.join(SUFFIXES)}); is the data set incomplete?")
        paths += [folder / name / file for file in found]
        labels += [label] * len(found)
    return Listing(paths, labels, classes)


def list_both(root: Path) -> tuple[Listing, Listing]:
    """Training and validation images; both have the same classes."""
    train, test = list_images(root / "train"), list_images(root / "val")
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))[0]
        raise DataError(f"{root}: train/ and val/ have different classes, '{odd}' is in one of them only")
    return train, test


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
    """Training and validation images. ``smallest_crop``: share of an image's area that still shows what it is."""

    source: str
    train: Resident | Streamed
    test: Resident | Streamed
    n_train: int
    n_test: int
    classes: int
    smallest_crop: float
    mirrored: bool


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
        source, crop = "digits", 0.6
    else:
        parts, source, crop = [part.evenly(max_images) for part in list_both(root)], "imagenet", 0.08
        if sum(len(part.paths) for part in parts) * 3 * size * size <= resident_gb * 2**30:
            train, test = (Resident(part, size, threads, device) for part in parts)
        else:
            for part in parts:
                decode_all(part.evenly(CHECKED).paths, size, threads)
            train, test = (Streamed(part, size, workers, device) for part in parts)
    counts = [len(part.paths) for part in parts]
    return Data(source, train, test, *counts, len(parts[0].classes), crop, mirrored=source == "imagenet")


def write_digits(root: Path, size: int) -> Path:
    """1,797 real 8 x 8 digits, enlarged, as train/ZERO/*.jpg and so on, so that the same code reads them."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(range(len(labels)), test_size=DIGITS_TEST_SHARE, stratify=labels, random_state=SPLIT_SEED)
    for part, rows in zip(("train", "val"), parts, strict=True):
        for label in range(10):
            (root / part / f"digit-{label}").mkdir(parents=True)
        for row in rows:
            picture = Image.fromarray((images[row].reshape(8, 8) / 16 * 255).astype(np.uint8))
            target = root / part / f"digit-{labels[row]}" / f"{row:04d}.jpg"
            picture.resize((size, size), Image.Resampling.BILINEAR).convert("RGB").save(target, quality=90)
    return root


def random_crops(images: Tensor, size: int, data: Data, source: torch.Generator, rows: slice, count: int) -> Tensor:
    """A random part of each image at a random place, mirrored half of the time, as (n, 3, size, size), normalised.

    The numbers are drawn for the global batch of ``count`` images, of which these are ``rows``, and on the CPU: so they
    do not depend on the number or kind of devices.
    """
    area, shape, across, down, mirror = moved(torch.rand(5, count, generator=source)[:, rows], images.device)
    area = data.smallest_crop + (1 - data.smallest_crop) * area
    shape = (4 / 3) ** (2 * shape - 1)  # width by height: 3:4 to 4:3
    width, height = (area * shape).sqrt().clamp(max=1), (area / shape).sqrt().clamp(max=1)
    place = torch.zeros(len(images), 2, 3, device=images.device)
    place[:, 0, 0] = torch.where((mirror < 0.5) & data.mirrored, -width, width)
    place[:, 1, 1] = height
    place[:, 0, 2], place[:, 1, 2] = (1 - width) * (2 * across - 1), (1 - height) * (2 * down - 1)
    grid = F.affine_grid(place, [len(images), 3, size, size], align_corners=False)
    return normalised(F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False))


def centre(images: Tensor, size: int) -> Tensor:
    edge = (images.shape[-1] - size) // 2
    return normalised(images[:, :, edge : edge + size, edge : edge + size])


def normalised(images: Tensor) -> Tensor:
    mean, std = statistics(images.device)
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


@cache
def statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a colour, once per device: each copy to a GPU makes the program wait for it."""
    mean, std = (torch.tensor(values, device=device)[:, None, None] * 255 for values in (MEAN, STD))
    return mean, std


def moved(rows: Tensor, device: torch.device) -> Tensor:
    """``rows`` on the device. A GPU fetches them itself, from memory that is pinned, while the program goes on."""
    if device.type != "cuda":
        return rows.to(device)
    return rows.contiguous().pin_memory().to(device, non_blocking=True)
