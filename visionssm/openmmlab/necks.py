"""Necks for backbones whose maps are not at the strides that heads expect."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from timm.layers import LayerNorm2d
from torch import Tensor, nn

# For `norm_cfg` of heads: ViTDet's normalise the channels of each pixel.
MODELS.register_module(name="ChannelLayerNorm", module=LayerNorm2d)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Maps at several scales from the last one of a plain backbone, as ViTDet makes them.

    Source: Li et al., Exploring Plain Vision Transformer Backbones for Object Detection, 3.1
    (arXiv:2203.16527).

    A sequence whose last map is (b, in_channels, h, w) to a tuple of `num_outs` maps of
    `out_channels`: one for each scale, (b, out_channels, scale h, scale w), then each half of the
    one before.

    Args:
        in_channels: channels of the backbone's map.
        out_channels: channels of the results.
        scales: sizes of the results over the backbone's, of 4, 2, 1 and 0.5, falling.
        num_outs: how many maps to return, at least one for each scale.

    Raises:
        ValueError: another scale, or fewer outputs than scales.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        scales: Sequence[float] = (4, 2, 1, 0.5),
        num_outs: int = 5,
    ):
        super().__init__()
        if num_outs < len(scales):
            raise ValueError(f"num_outs: expected at least {len(scales)}, got {num_outs}")
        self.num_outs = num_outs
        self.levels = nn.ModuleList(_level(in_channels, out_channels, scale) for scale in scales)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        maps = [level(inputs[-1]) for level in self.levels]
        while len(maps) < self.num_outs:
            maps.append(F.max_pool2d(maps[-1], kernel_size=1, stride=2))
        return tuple(maps)


def _level(dim: int, out_dim: int, scale: float) -> nn.Module:
    layers: list[nn.Module] = []
    if scale == 4:
        layers = [nn.ConvTranspose2d(dim, dim // 2, 2, stride=2), LayerNorm2d(dim // 2), nn.GELU()]
        dim //= 2
    if scale in (4, 2):
        layers.append(nn.ConvTranspose2d(dim, dim // 2, 2, stride=2))
        dim //= 2
    elif scale == 0.5:
        layers.append(nn.MaxPool2d(2))
    elif scale != 1:
        raise ValueError(f"scales: expected 4, 2, 1 or 0.5, got {scale}")
    return nn.Sequential(
        *layers,
        nn.Conv2d(dim, out_dim, 1, bias=False),
        LayerNorm2d(out_dim),
        nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False),
        LayerNorm2d(out_dim),
    )


@MODELS.register_module()
class FinerLevels(BaseModule):
    """Put finer maps before those of a pyramid: EfficientViM's strides begin at 16, heads' at 4.

    Follows an FPN in a config: ``neck=[dict(type='FPN', ...), dict(type='FinerLevels', ...)]``.
    Maps (b, channels, h_i, w_i), finest first, to a tuple of `num_levels` more, each of twice the
    size of the next by a transposed convolution.

    Args:
        channels: of every map.
        num_levels: how many to add.
    """

    def __init__(self, channels: int, num_levels: int):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(channels, channels, 2, stride=2) for _ in range(num_levels)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        maps = list(inputs)
        for conv in self.convs:
            maps.insert(0, conv(maps[0]))
        return tuple(maps)
