"""EfficientNet-Lite0: the network whose ImageNet weights are in a package of the index (the extra `extractor`).

Tan and Le, "EfficientNet", arXiv 1905.11946; the variant without squeeze and excitation, with ReLU6:
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. Modules have the names that the
weights have.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

SIZE, CHANNELS = 224, 1280  # edge that it was trained at; numbers of an image before the classifier
# (blocks, kernel, stride of the first, expansion, channels)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class Convolution(nn.Conv2d):
    """Padded so that N pixels become ceil(N / stride); an odd one goes to the right and below."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (height, width), kernel, stride = x.shape[-2:], self.kernel_size[0], self.stride[0]
        down, across = (max((math.ceil(size / stride) - 1) * stride + kernel - size, 0) for size in (height, width))
        padded = functional.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        convolved: Tensor = super().forward(padded)
        return convolved


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Widen, convolve each channel, narrow; the input is added where shapes agree. float [N,I,H,W] to [N,O,H',W']."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = Convolution(inputs, wide, 1), _norm(wide)
        self._depthwise_conv, self._bn1 = Convolution(wide, wide, kernel, stride, groups=wide), _norm(wide)
        self._project_conv, self._bn2 = Convolution(wide, outputs, 1), _norm(outputs)
        self.expands, self.adds = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        wide = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        wide = functional.relu6(self._bn1(self._depthwise_conv(wide)))
        y: Tensor = self._bn2(self._project_conv(wide))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """float [N,3,S,S], normalized as ImageNet's, to logits [N,classes]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = Convolution(3, 32, 3, 2), _norm(32)
        blocks, inputs = [], 32
        for count, kernel, stride, expansion, outputs in STAGES:
            for number in range(count):
                blocks.append(Block(inputs, outputs, kernel, stride if number == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = Convolution(inputs, CHANNELS, 1), _norm(CHANNELS)
        self._fc = nn.Linear(CHANNELS, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self._blocks(functional.relu6(self._bn0(self._conv_stem(x))))
        x = functional.relu6(self._bn1(self._conv_head(x)))
        logits: Tensor = self._fc(x.mean((2, 3)))
        return logits
