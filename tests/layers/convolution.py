"""What the tests of layers expect of a depthwise convolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from visionssm.layers import DepthwiseConv2d


def convolved(conv: DepthwiseConv2d, x: Tensor) -> Tensor:
    """PyTorch's grouped convolution of a channels-last map with the parameters of a layer."""
    padding = conv.weight.shape[-1] // 2
    y = F.conv2d(x.movedim(-1, 1), conv.weight, conv.bias, padding=padding, groups=len(conv.weight))
    y = y.movedim(1, -1)
    return y if conv.activation is None else F.silu(y)
