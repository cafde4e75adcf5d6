"""Depthwise convolution, tap by tap: the readable truth.

Runs in the dtype of its widest input, float64 included; every other implementation is measured
against this one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise_conv_reference(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    top: int,
    left: int,
    silu: bool,
    mirrored: bool,
) -> Tensor:
    """x (b, h, w, d) and taps (kh, kw, m) to (b, h, w, m) in x's dtype, zeros outside the map."""
    dtype = torch.promote_types(torch.float32, torch.promote_types(x.dtype, taps.dtype))
    d, (kh, kw, _) = x.shape[3], taps.shape
    outputs = []
    for i, weight in enumerate(taps.to(dtype).split(d, dim=2)):
        before = (kh - 1 - top, kw - 1 - left) if mirrored and i % 2 else (top, left)
        outputs.append(_correlate(x.to(dtype), weight, *before))
    y = torch.cat(outputs, dim=-1)
    if bias is not None:
        y = y + bias.to(dtype)
    return (F.silu(y) if silu else y).to(x.dtype)


def _correlate(x: Tensor, taps: Tensor, top: int, left: int) -> Tensor:
    (_, h, w, _), (kh, kw, _) = x.shape, taps.shape
    padded = F.pad(x, (0, 0, left, kw - 1 - left, top, kh - 1 - top))
    y = torch.zeros_like(x)
    for p in range(kh):
        for q in range(kw):
            y = y + taps[p, q] * padded[:, p : p + h, q : q + w]
    return y
