"""Depthwise convolution of a channels-last map, with the parameters of `nn.Conv2d`."""

from __future__ import annotations

from timm.models import register_notrace_function
from torch import Tensor, nn

from visionssm.ops import depthwise_conv

# It looks at sizes and devices, so a symbolic trace keeps it as a single call.
register_notrace_function(depthwise_conv)


class DepthwiseConv2d(nn.Conv2d):
    """Each channel with its own taps: (b, h, w, dim) -> (b, h, w, dim).

    Args:
        dim: channels.
        kernel_size: odd.
        bias: add one number a channel.
        activation: "silu" afterwards, or None for none.

    Raises:
        ValueError: kernel_size is even, or the activation unknown.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 3,
        bias: bool = True,
        activation: str | None = None,
        device=None,
        dtype=None,
    ):
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd positive integer, got {kernel_size}")
        if activation not in (None, "silu"):
            raise ValueError(f"activation: expected 'silu' or None, got {activation!r}")
        dd = {"device": device, "dtype": dtype}
        super().__init__(
            dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, bias=bias, **dd
        )
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return depthwise_conv(x, self.weight, self.bias, activation=self.activation)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation!r}"
