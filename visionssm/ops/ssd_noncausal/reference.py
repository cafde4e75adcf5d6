"""The readable truth: a loop that adds up the state, and one that reads it out.

Source: VSSD, arXiv 2407.18559, section 3. Runs in the dtype of x, at least float32; the matrix
products are measured against this.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..dispatch import compute_dtype
from ..ssd.reference import step_sizes


def ssd_noncausal_reference(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
) -> Tensor:
    """y (b, l, h, p) in x's dtype; arguments as in `visionssm.ops.ssd_noncausal`."""
    out_dtype = x.dtype
    dtype = compute_dtype(x)
    x, A, B, C = (t.to(dtype) for t in (x, A, B, C))
    dt = step_sizes(dt, dt_bias, dt_softplus, None, dtype)
    b, l, h, p = x.shape
    group = torch.arange(h, device=x.device) % B.shape[2]
    B, C = B[:, :, group], C[:, :, group]  # (b, l, h, n)
    state = x.new_zeros(b, h, B.shape[3], p)
    for t in range(l):
        weight = (-dt[:, t] * A)[..., None]
        state = state + B[:, t, :, :, None] * (weight * x[:, t])[:, :, None]
    y = torch.stack([(C[:, t, :, :, None] * state).sum(2) for t in range(l)], dim=1)
    if D is not None:
        y = y + D.to(dtype)[:, None] * x
    return y.to(out_dtype)
