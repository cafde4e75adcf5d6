"""Depthwise convolution of channels-last maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import check_implementation, resolve_implementation
from .checks import check_depthwise_conv_args
from .op import depthwise_conv_op
from .reference import depthwise_conv_reference

__all__ = ["depthwise_conv"]


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding: tuple[int, int] | None = None,
    mirrored: bool = False,
    activation: str | None = None,
    implementation: str = "auto",
) -> Tensor:
    """Cross-correlate every channel of a map with its own taps; the map keeps its size.

    With zeros outside of the map, and output channel j reading input channel j mod d::

        y[r, c, j] = act(bias[j] + sum over p, q of
                         weight[j, 0, p, q] x[r + p - top, c + q - left, j mod d])

    Tensors stay channels-last, so that a scan reads the rows that this writes.

    Args:
        x: maps (b, h, w, d). float32, bfloat16 or float16 (float64 outside of Triton), any strides.
            Under autocast it is cast as the input of a convolution is.
        weight: taps (m, 1, kh, kw) as of a grouped convolution, m a multiple of d. May differ from
            x in dtype.
        bias: (m,).
        padding: (top, left), zeros before the first row and column; as many follow the last as the
            size needs. None is (kh // 2, kw // 2), the middle tap on the token itself.
        mirrored: every second repetition of the channels reads the other way, its padding being
            (kh - 1 - top, kw - 1 - left): causal convolutions of both directions in one call.
        activation: "silu", or None for none.
        implementation: "auto" (Triton on CUDA, PyTorch elsewhere), or "triton", "torch",
            "reference" by name.

    Returns:
        y (b, h, w, m) in x's dtype. Triton and the reference add up in float32. Differentiable in
        every tensor; in Triton once and in reverse mode, and the same input gives the same bits.

    Raises:
        ValueError: an argument has the wrong shape, dtype or device, or is out of its range,
            naming it, what was expected and what came.
        NotImplementedError: a second or forward-mode derivative is asked of Triton.
    """
    check_depthwise_conv_args(x, weight, bias, padding, activation)
    check_implementation(implementation)
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(kind))  # PyTorch knows no autocast of meta tensors
    kh, kw = weight.shape[2:]
    top, left = (kh // 2, kw // 2) if padding is None else padding
    implementation = resolve_implementation(implementation, x.device, x.dtype)
    if implementation == "torch":
        if mirrored:
            weight, top, left = _centred(weight, x.shape[3], top, left)
        y = _by_convolution(x, weight, bias, top, left)
        return y if activation is None else F.silu(y)
    taps, silu = weight.squeeze(1).permute(1, 2, 0).contiguous(), activation == "silu"
    if implementation == "reference":
        return depthwise_conv_reference(x, taps, bias, top, left, silu, mirrored)
    return depthwise_conv_op(x, taps, bias, top, left, silu, mirrored)


def _centred(weight: Tensor, d: int, top: int, left: int) -> tuple[Tensor, int, int]:
    """The same convolution unmirrored: taps filled up with zeros around the token's own."""
    kh, kw = weight.shape[2:]
    down, right = kh - 1 - top, kw - 1 - left
    rows, columns = max(top, down), max(left, right)
    before = (columns - left, columns - right, rows - top, rows - down)
    after = (columns - right, columns - left, rows - down, rows - top)
    parts = weight.split(d)
    padded = [F.pad(part, after if i % 2 else before) for i, part in enumerate(parts)]
    return torch.cat(padded), rows, columns


def _by_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, top: int, left: int) -> Tensor:
    """PyTorch's grouped convolution, whose groups are input channels and not repetitions."""
    d, (m, _, kh, kw) = x.shape[3], weight.shape
    x = x.permute(0, 3, 1, 2)
    padding = (top, left)
    if (2 * top, 2 * left) != (kh - 1, kw - 1):
        x = F.pad(x, (left, kw - 1 - left, top, kh - 1 - top))
        padding = (0, 0)
    weight = weight.to(x.dtype)
    bias = None if bias is None else bias.to(x.dtype)
    if m == d:
        return F.conv2d(x, weight, bias, padding=padding, groups=d).permute(0, 2, 3, 1)
    weight = weight.unflatten(0, (m // d, d)).transpose(0, 1).flatten(0, 1)
    y = F.conv2d(x, weight, padding=padding, groups=d).permute(0, 2, 3, 1)
    y = y.unflatten(-1, (d, m // d)).transpose(-1, -2).flatten(-2)
    return y if bias is None else y + bias
