"""ResNet50: fifty layers, of which forty-eight are in sixteen blocks that each add to what they were given."""

from __future__ import annotations

from torch import Tensor, nn

EXPANSION = 4  # a block's output has four times the channels that it computes with


class Bottleneck(nn.Module):
    """Fewer channels, a 3x3 convolution, more channels; the result is added to the input, halved where ``stride`` is 2.

    The stride is that of the 3x3 convolution ("ResNet50 v1.5"): a little more work than the paper's, and better.
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        last = nn.BatchNorm2d(outputs)
        nn.init.zeros_(last.weight)  # at first a block changes nothing: deep networks then learn from the first step
        self.change = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, outputs, 1, bias=False), last,
        )  # fmt: skip
        self.same: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.same = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        return self.relu(self.same(images) + self.change(images))


class ResNet50(nn.Module):
    """Images (n, 3, height, width) -> scores (n, classes). ``width``: channels after the stem, 64 in the paper."""

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )  # fmt: skip
        blocks: list[nn.Module] = []
        inputs = width
        for stage, count in enumerate((3, 4, 6, 3)):
            for number in range(count):
                blocks.append(Bottleneck(inputs, width << stage, stride=2 if stage and not number else 1))
                inputs = EXPANSION * (width << stage)
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.blocks(self.stem(images)).mean((2, 3)))
