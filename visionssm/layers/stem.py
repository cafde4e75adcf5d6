"""Stems: from an image (b, c, h, w) to a channels-last map of patches."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import ConvNormAct
from timm.models import register_notrace_module
from torch import Tensor, nn

from .typing import Layer

ROW = 8  # numbers: the tensor cores read rows of 16 bytes


@register_notrace_module  # looks at the device
class ImageConv2d(nn.Conv2d):
    """Convolution of images: (b, c, h, w) -> (b, dim, h', w'), channels last in memory.

    The parameters and numbers of `nn.Conv2d`, for square kernels without dilation or groups. On a
    GPU it is one matrix product of all patches, for convolution kernels are slow on three channels,
    and slower still where they compute the gradient of the weights.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda:
            return super().forward(x.contiguous(memory_format=torch.channels_last))
        kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        if padding:
            x = F.pad(x, (padding,) * 4)
        patches = x.unfold(2, kernel, stride).unfold(3, kernel, stride)
        patches, weight = patches.permute(0, 2, 3, 1, 4, 5).flatten(3), self.weight.flatten(1)
        if odd := weight.shape[1] % ROW:
            patches, weight = (F.pad(t, (0, ROW - odd)) for t in (patches, weight))
        return F.linear(patches, weight, self.bias).permute(0, 3, 1, 2)


def reading_images(layer: nn.Module) -> nn.Module:
    """Have its submodule `conv` be an `ImageConv2d`, of the same parameters."""
    layer.get_submodule("conv").__class__ = ImageConv2d
    return layer


class PatchStem(nn.Module):
    """Non-overlapping patches: (b, c, h, w) -> (b, h // patch_size, w // patch_size, dim).

    Args:
        in_chans: image channels c.
        dim: output channels.
        patch_size: side of a patch; what does not fill a patch at the right and bottom is ignored.
        norm_layer: normalisation over channels; None leaves it out.

    Attributes:
        stride: of the map, in pixels.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        patch_size: int = 4,
        norm_layer: Layer | None = nn.LayerNorm,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.stride = patch_size
        self.conv1 = ImageConv2d(in_chans, dim, patch_size, stride=patch_size, **dd)
        self.norm1 = norm_layer(dim, **dd) if norm_layer is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm1(self.conv1(x).permute(0, 2, 3, 1))


class ConvStem(nn.Module):
    """Two overlapping convolutions of stride s = patch_size / 2, kernel s + 1, padding 1.

    (b, c, h, w) -> (b, h', w', dim); for patch_size 4, h' = ceil(ceil(h / 2) / 2) and so is w'.

    Args:
        in_chans: image channels c.
        dim: output channels; half as many, rounded down, after the first convolution.
        patch_size: twice the stride s, even.
        norm_layer: normalisation over channels after each convolution; None leaves it out.

    Attributes:
        stride: of both together, s * s, in pixels: that is patch_size for 4 alone.

    Raises:
        ValueError: patch_size is odd.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        patch_size: int = 4,
        norm_layer: Layer | None = nn.LayerNorm,
        act_layer: Layer = nn.GELU,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if patch_size % 2:
            raise ValueError(f"patch_size: expected an even number, got {patch_size}")
        dd = {"device": device, "dtype": dtype}
        stride, mid = patch_size // 2, dim // 2
        self.stride = stride * stride
        self.conv1 = ImageConv2d(in_chans, mid, stride + 1, stride=stride, padding=1, **dd)
        self.norm1 = norm_layer(mid, **dd) if norm_layer is not None else nn.Identity()
        self.act = act_layer()
        self.conv2 = nn.Conv2d(mid, dim, stride + 1, stride=stride, padding=1, **dd)
        self.norm2 = norm_layer(dim, **dd) if norm_layer is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.conv1(x).permute(0, 2, 3, 1)))
        return self.norm2(self.conv2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class ResidualConvStem(nn.Module):
    """Spatial-Mamba's stem: stride 2, a residual pair, stride 2 to a wide layer that is narrowed.

    (b, c, h, w) -> (b, h', w', dim), h' = ceil(ceil(h / 2) / 2) and so is w'. Five convolutions
    with batch normalisation, of dim / 2, dim / 2, dim / 2, 4 dim and dim channels; the third and
    the last have no activation.

    Args:
        in_chans: image channels c.
        dim: output channels.
        act_layer: activation.
    """

    stride = 4

    def __init__(
        self, in_chans: int, dim: int, act_layer: Layer = nn.ReLU, device=None, dtype=None
    ):
        super().__init__()
        conv = partial(ConvNormAct, act_layer=act_layer, device=device, dtype=dtype)
        mid = dim // 2
        self.conv1 = reading_images(conv(in_chans, mid, 3, stride=2))
        self.conv2 = nn.Sequential(conv(mid, mid, 3), conv(mid, mid, 3, apply_act=False))
        self.conv3 = nn.Sequential(
            conv(mid, 4 * dim, 3, stride=2), conv(4 * dim, dim, 1, apply_act=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = x + self.conv2(x)
        return self.conv3(x).permute(0, 2, 3, 1)
