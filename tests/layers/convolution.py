"""What the tests of layers expect of a depthwise convolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def convolved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """PyTorch's grouped convolution of a channels-last map, from the parameters of a layer."""
    padding = conv.weight.shape[-1] // 2
    y = F.conv2d(x.movedim(-1, 1), conv.weight, conv.bias, padding=padding, groups=len(conv.weight))
    return y.movedim(1, -1)
