"""What the network sees of an image: a random part while it trains, the centre while it is tested.

Cutting, mirroring and normalising happen on the device, for a whole batch at once.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images, scaled to 0..1


class Cutting(NamedTuple):
    """How images of a data set may be cut. ``smallest``: share of the area that still shows what it is."""

    smallest: float
    mirrored: bool


def random_crops(
    images: Tensor, size: int, cutting: Cutting, source: torch.Generator, rows: slice, count: int
) -> Tensor:
    """A random part of each image at a random place, mirrored half of the time, as (n, 3, size, size), normalised.

    The numbers are drawn for the global batch of ``count`` images, of which these are ``rows``, and on the CPU: so they
    do not depend on the number or kind of devices.
    """
    area, shape, across, down, mirror = moved(torch.rand(5, count, generator=source)[:, rows], images.device)
    area = cutting.smallest + (1 - cutting.smallest) * area
    shape = (4 / 3) ** (2 * shape - 1)  # width by height: 3:4 to 4:3
    width, height = (area * shape).sqrt().clamp(max=1), (area / shape).sqrt().clamp(max=1)
    place = torch.zeros(len(images), 2, 3, device=images.device)
    place[:, 0, 0] = torch.where((mirror < 0.5) & cutting.mirrored, -width, width)
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
