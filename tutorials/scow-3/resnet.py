"""ResNet18: eighteen layers, of which sixteen are in eight blocks that each add to what they were given."""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions; their result is added to the input, which is halved in size where ``stride`` is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.same: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.same = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        return self.relu(self.same(images) + self.change(images))


class ResNet18(nn.Module):
    """Images (n, 3, height, width) -> scores (n, classes).

    Args:
        classes: how many.
        width: channels after the stem, 64 in the paper; the last blocks have eight times as many.
        stem: "imagenet" is the paper's, made for images of 224 pixels: it leaves 8 x 8 of CIFAR's 32 x 32.
            "cifar" keeps all pixels: fifteen times the work per image, and a better accuracy.
    """

    def __init__(self, classes: int, width: int = 64, stem: str = "imagenet") -> None:
        super().__init__()
        if stem == "imagenet":
            first, pool = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), nn.MaxPool2d(3, 2, padding=1)
        else:
            first, pool = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.Identity()
        self.stem = nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU(), pool)
        self.blocks = nn.Sequential(
            Block(width, width, 1), Block(width, width, 1),
            Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1),
            Block(2 * width, 4 * width, 2), Block(4 * width, 4 * width, 1),
            Block(4 * width, 8 * width, 2), Block(8 * width, 8 * width, 1),
        )  # fmt: skip
        self.classifier = nn.Linear(8 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.blocks(self.stem(images)).mean((2, 3)))
