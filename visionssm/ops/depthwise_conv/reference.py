"""Depthwise convolution, tap by tap: the readable truth.

Runs in the dtype of its widest input, float64 included; every other implementation is measured
against this one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise_conv_reference(
    x: Tensor, taps: Tensor, bias: Tensor | None, top: int, left: int, silu: bool
) -> Tensor:
    """x (b, h, w, d) and taps (kh, kw, m) to (b, h, w, m) in x's dtype, zeros outside the map."""
    dtype = torch.promote_types(torch.float32, torch.promote_types(x.dtype, taps.dtype))
    _, h, w, d = x.shape
    kh, kw, m = taps.shape
    padded = F.pad(x.to(dtype), (0, 0, left, kw - 1 - left, top, kh - 1 - top))
    padded = padded.repeat(1, 1, 1, m // d)
    y = torch.zeros_like(padded[:, :h, :w])
    for p in range(kh):
        for q in range(kw):
            y = y + taps[p, q].to(dtype) * padded[:, p : p + h, q : q + w]
    if bias is not None:
        y = y + bias.to(dtype)
    return (F.silu(y) if silu else y).to(x.dtype)
