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
        y = _by_convolutions(x, weight, bias, top, left, mirrored)
        return y if activation is None else F.silu(y)
    taps, silu = weight.squeeze(1).permute(1, 2, 0).contiguous(), activation == "silu"
    if implementation == "reference":
        return depthwise_conv_reference(x, taps, bias, top, left, silu, mirrored)
    return depthwise_conv_op(x, taps, bias, top, left, silu, mirrored)


def _by_convolutions(
    x: Tensor, weight: Tensor, bias: Tensor | None, top: int, left: int, mirrored: bool
) -> Tensor:
    """A depthwise convolution of PyTorch's for every repetition of the channels.

    One for all of them, with several outputs a group, takes several times as long on a CPU.
    """
    d, (m, _, kh, kw) = x.shape[3], weight.shape
    x, weight = x.permute(0, 3, 1, 2), weight.to(x.dtype)
    biases = [None] * (m // d) if bias is None else bias.to(x.dtype).split(d)
    repetitions = []
    for i, (taps, offset) in enumerate(zip(weight.split(d), biases, strict=True)):
        above, before = (kh - 1 - top, kw - 1 - left) if mirrored and i % 2 else (top, left)
        if (2 * above, 2 * before) == (kh - 1, kw - 1):
            y = F.conv2d(x, taps, offset, padding=(above, before), groups=d)
        else:
            padded = F.pad(x, (before, kw - 1 - before, above, kh - 1 - above))
            y = F.conv2d(padded, taps, offset, groups=d)
        repetitions.append(y.permute(0, 2, 3, 1))
    return repetitions[0] if m == d else torch.cat(repetitions, -1)
