"""Downsampling between stages of channels-last maps."""

from __future__ import annotations

from torch import Tensor, nn

from .typing import Layer


class ConvDownsample(nn.Module):
    """Convolution of stride 2, then normalisation: (b, h, w, dim) -> (b, h', w', out_dim).

    Kernel 2 has no padding, h' = floor(h / 2); kernel 3 is padded by one, h' = ceil(h / 2).
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        kernel_size: int = 3,
        norm_layer: Layer = nn.LayerNorm,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        padding = (kernel_size - 1) // 2
        self.conv = nn.Conv2d(dim, out_dim, kernel_size, stride=2, padding=padding, **dd)
        self.norm = norm_layer(out_dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
