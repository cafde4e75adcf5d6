"""Argument checks of `depthwise_conv`: every error names the argument, what came, what fits."""

from __future__ import annotations

from torch import Tensor

from ..dispatch import FLOATING


def check_depthwise_conv_args(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: tuple[int, int] | None,
    activation: str | None,
) -> None:
    """Raise ValueError unless the arguments form a valid call of `depthwise_conv`."""
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(f"x: expected (b, h, w, d) with h, w, d >= 1, got {tuple(x.shape)}")
    d = x.shape[3]
    if weight.dim() != 4 or weight.shape[1] != 1 or 0 in weight.shape or weight.shape[0] % d:
        raise ValueError(
            f"weight: expected (m, 1, kh, kw) with m a multiple of {d}, got {tuple(weight.shape)}"
        )
    m, _, kh, kw = weight.shape
    if bias is not None and tuple(bias.shape) != (m,):
        raise ValueError(f"bias: expected ({m},), got {tuple(bias.shape)}")
    if padding is not None and not (0 <= padding[0] < kh and 0 <= padding[1] < kw):
        raise ValueError(f"padding: expected (0..{kh - 1}, 0..{kw - 1}), got {padding}")
    if activation not in (None, "silu"):
        raise ValueError(f"activation: expected 'silu' or None, got {activation!r}")
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.dtype not in FLOATING:
            raise ValueError(f"{name}: expected a real floating dtype, got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"{name}: expected device {x.device} as x, got {tensor.device}")
