"""State fusion, tap by tap: the readable truth.

Equation 5 of Spatial-Mamba, arXiv 2410.15091. Runs in the dtype of its widest input, float64
included; every other implementation is measured against this one.
"""

from __future__ import annotations

import torch
from torch import Tensor

DILATIONS = (1, 3, 5)


def source_rows(size: int, offset: int, device: torch.device) -> Tensor:
    """Row (or column) that each of `size` rows reads at an offset: the border repeats outwards."""
    return (torch.arange(size, device=device) + offset).clamp(0, size - 1)


def state_fusion_reference(x: Tensor, weight: Tensor) -> Tensor:
    """State fusion by a loop over taps; arguments as in `visionssm.ops.state_fusion`."""
    dtype = torch.promote_types(torch.float32, torch.promote_types(x.dtype, weight.dtype))
    _, h, w, _ = x.shape
    states, weight = x.to(dtype), weight.to(dtype)
    y = torch.zeros_like(states)
    for i, dilation in enumerate(DILATIONS):
        for a in range(3):
            rows = states[:, source_rows(h, (a - 1) * dilation, x.device)]
            for c in range(3):
                columns = source_rows(w, (c - 1) * dilation, x.device)
                y = y + weight[i, a, c] * rows[:, :, columns]
    return y.to(x.dtype)
