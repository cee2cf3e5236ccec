"""The residual networks for CIFAR-10 that poisoning attacks are measured on, as extractors with weights from elsewhere.

He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385, section 4.2, with shortcuts of kind A.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """float [N,I,H,W] to [N,O,H,W], halved in height and width where there are more channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.more, self.stride = outputs - inputs, 1 + (outputs > inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        found = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        before = self.more // 2
        kept = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.more - before))
        return functional.relu(found + kept)


class CifarResNet(nn.Module):
    """Images [N,3,S,S] to scores [N,classes]; blocks: of each of the three stages."""

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        for number, (inputs, outputs) in enumerate(zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False), 1):
            stage = [Block(inputs, outputs), *(Block(outputs, outputs) for _ in range(blocks - 1))]
            setattr(self, f"layer{number}", nn.Sequential(*stage))
        self.linear = nn.Linear(WIDTHS[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        for number in range(1, len(WIDTHS) + 1):
            x = getattr(self, f"layer{number}")(x)
        scores: Tensor = self.linear(torch.mean(x, (2, 3)))
        return scores
