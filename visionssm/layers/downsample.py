"""Downsampling between stages of channels-last maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import Tensor, nn

from .typing import Layer


@register_notrace_module  # looks at sizes and at the device
class MapConv2d(nn.Conv2d):
    """Convolution of channels-last maps: (b, h, w, dim) -> (b, h', w', out_dim).

    On a CPU it would copy the weights into another order at every call. Where they are larger than
    the patches that they meet, those are copied instead, for a matrix product.
    """

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        rows, columns = ((side + 2 * padding - kernel) // stride + 1 for side in x.shape[1:3])
        x = x.permute(0, 3, 1, 2)
        eager_on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if eager_on_cpu and len(x) * rows * columns < self.out_channels:
            patches = F.unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2)
            y = F.linear(patches, self.weight.flatten(1), self.bias)
            return y.unflatten(1, (rows, columns))
        return super().forward(x).permute(0, 2, 3, 1)


class ConvDownsample(nn.Module):
    """Convolution of stride 2, then normalisation: (b, h, w, dim) -> (b, h', w', out_dim).

    Kernel 2 has no padding, h' = floor(h / 2); kernel 3 is padded by one, h' = ceil(h / 2). An
    activation may stand between the two.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        kernel_size: int = 3,
        norm_layer: Layer = nn.LayerNorm,
        act_layer: Layer = nn.Identity,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        padding = (kernel_size - 1) // 2
        self.conv = MapConv2d(dim, out_dim, kernel_size, stride=2, padding=padding, **dd)
        self.act = act_layer()
        self.norm = norm_layer(out_dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.act(self.conv(x)))


class InvertedDownsample(nn.Module):
    """Wide depthwise convolution of stride 2: (b, h, w, dim) -> (b, h', w', out_dim).

    h' = ceil(h / 2) and so is w'. Linear layer to ratio x dim channels, depthwise 3 x 3
    convolution, linear layer to out_dim, with an activation after the first two and batch
    normalisation after the last.

    Args:
        dim: channels of the input.
        out_dim: channels of the output.
        ratio: channels between over dim.
        act_layer: activation.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        ratio: int = 8,
        act_layer: Layer = nn.ReLU,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        mid = ratio * dim
        self.expand = nn.Linear(dim, mid, **dd)
        self.conv = nn.Conv2d(mid, mid, 3, stride=2, padding=1, groups=mid, **dd)
        self.project = nn.Linear(mid, out_dim, **dd)
        self.norm = nn.BatchNorm2d(out_dim, **dd)
        self.act = act_layer()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.expand(x)).permute(0, 3, 1, 2)
        x = self.act(self.conv(x)).permute(0, 2, 3, 1)
        return self.norm(self.project(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
