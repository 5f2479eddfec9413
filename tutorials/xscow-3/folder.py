"""A folder of images, laid out as ImageNet is: train/CLASS/*.JPEG and val/CLASS/*.JPEG. Is it whole, and what is in it?

Looks at names only: whether an image can be read is for ``images.py`` to say.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from harness.runtime import DataError

SUFFIXES = (".jpeg", ".jpg", ".png")
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
