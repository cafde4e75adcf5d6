"""State fusion in PyTorch: any device, any real dtype, traceable.

The map is padded once by its border; every tap is then a shifted view of it, and the three taps at
the centre are one. Backward, each tap adds into the same view of a padded gradient, whose border is
folded back onto the map.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import compute_dtype
from .reference import DILATIONS

PAD = max(DILATIONS)
Taps = tuple[slice, int, int]  # those that read the same states, summed over the slice


def state_fusion_forward(x: Tensor, weight: Tensor) -> Tensor:
    """y (b, h, w, d) in x's dtype."""
    padded = _padded(x)
    weight = weight.to(padded.dtype)
    y = padded.new_zeros(x.shape)
    for taps, view in _taps(padded, x.shape):
        y.addcmul_(view, weight[taps].sum(0))
    return y.to(x.dtype)


def state_fusion_backward(grad_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of (x, weight)."""
    padded = _padded(x)
    grad_y, taps_weight = grad_y.to(padded.dtype), weight.to(padded.dtype)
    gx, gweight = torch.zeros_like(padded), taps_weight.new_empty(weight.shape)
    for (taps, view), (_, gview) in zip(_taps(padded, x.shape), _taps(gx, x.shape), strict=True):
        gview.addcmul_(grad_y, taps_weight[taps].sum(0))
        gweight[taps] = (grad_y * view).sum((0, 1, 2))
    gx = _fold(_fold(gx, 1), 2)
    return gx.to(x.dtype).contiguous(), gweight.to(weight.dtype)


def _padded(x: Tensor) -> Tensor:
    """x in the compute dtype with its border repeated, (b, h + 2 PAD, w + 2 PAD, d)."""
    channels_first = x.to(compute_dtype(x)).permute(0, 3, 1, 2)
    padded = F.pad(channels_first, (PAD, PAD, PAD, PAD), mode="replicate")
    return padded.permute(0, 2, 3, 1).contiguous()


def _taps(padded: Tensor, shape: torch.Size) -> Iterator[tuple[Taps, Tensor]]:
    """Indices of the weight, a slice of dilations each, and the view of the states they read."""
    _, h, w, _ = shape
    yield (slice(None), 1, 1), padded[:, PAD : PAD + h, PAD : PAD + w]
    for i, dilation in enumerate(DILATIONS):
        for a in range(3):
            for c in range(3):
                if (a, c) != (1, 1):
                    top, left = PAD + (a - 1) * dilation, PAD + (c - 1) * dilation
                    yield (slice(i, i + 1), a, c), padded[:, top : top + h, left : left + w]


def _fold(padded: Tensor, axis: int) -> Tensor:
    """Add what lies outside the map along an axis to its border; the adjoint of repeating it."""
    size = padded.shape[axis] - 2 * PAD
    before, inside, after = padded.split([PAD, size, PAD], dim=axis)
    inside = inside.clone()
    inside.narrow(axis, 0, 1).add_(before.sum(axis, keepdim=True))
    inside.narrow(axis, size - 1, 1).add_(after.sum(axis, keepdim=True))
    return inside
