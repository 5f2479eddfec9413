"""Handwritten digits as tensors that stay on the device: MNIST where the site has it, else scikit-learn's."""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor

from harness.runtime import find_mnist

SPLIT_SEED = 42  # which digits are the test set does not depend on --seed
DIGITS_TEST_SHARE = 0.2


class Data(NamedTuple):
    """Images of shape (n, 1, 28, 28), normalised; labels of shape (n,)."""

    source: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_data(max_images: int, mean: float, std: float, device: torch.device) -> Data:
    """MNIST or digits, at most ``max_images`` of each part (0: all); pixels of 0..1 become (pixel - mean) / std."""
    mnist = find_mnist()
    if mnist is None:
        parts = digits()
        source = "digits"
    else:
        parts = [torch.frombuffer(part.data, dtype=torch.uint8).reshape(part.shape) for part in mnist]
        parts = [parts[0] / 255, parts[1].long(), parts[2] / 255, parts[3].long()]
        source = "mnist"
    parts = [part[: max_images or None].to(device) for part in parts]
    train_images, train_labels, test_images, test_labels = parts
    return Data(
        source, normalise(train_images, mean, std), train_labels, normalise(test_images, mean, std), test_labels
    )


def digits() -> list[Tensor]:
    """1,797 real 8 x 8 digits enlarged to 28 x 28, split by class: images (n, 28, 28) in 0..1 and labels, twice."""
    # Imported here, for it takes seconds and with MNIST nobody needs it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    small = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    large = F.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False).squeeze(1)
    train, test = train_test_split(
        range(len(labels)), test_size=DIGITS_TEST_SHARE, stratify=labels, random_state=SPLIT_SEED
    )
    return [large[train], torch.tensor(labels[train]), large[test], torch.tensor(labels[test])]


def normalise(images: Tensor, mean: float, std: float) -> Tensor:
    return ((images - mean) / std).unsqueeze(1).contiguous(memory_format=torch.channels_last)
