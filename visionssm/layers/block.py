"""Blocks: a mixer of tokens and an MLP, each a residual of the channels-last map."""

from __future__ import annotations

from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from .depthwise import DepthwiseConv2d
from .typing import Layer


class CPEBlock(nn.Module):
    """Mixer and MLP, a depthwise convolution as conditional position embedding before each.

    x + cpe1(x), x + op(norm(x)), x + cpe2(x), x + mlp(norm2(x)): (b, h, w, dim) to the same.

    Args:
        dim: channels.
        mixer: class of the token mixer, called with dim.
        mlp_ratio: hidden channels of the MLP over dim.
        norm_layer: normalisation over channels.
        drop_path: stochastic depth rate of mixer and MLP.

    Source: the block of MLLA, arXiv 2405.16605, which Spatial-Mamba and VSSD take over.
    """

    def __init__(
        self,
        dim: int,
        mixer: Layer,
        mlp_ratio: float = 4.0,
        norm_layer: Layer = nn.LayerNorm,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.cpe1 = DepthwiseConv2d(dim, **dd)
        self.norm = norm_layer(dim, **dd)
        self.op = mixer(dim, **dd)
        self.cpe2 = DepthwiseConv2d(dim, **dd)
        self.norm2 = norm_layer(dim, **dd)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.cpe1(x)
        x = x + self.drop_path(self.op(self.norm(x)))
        x = x + self.cpe2(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))
