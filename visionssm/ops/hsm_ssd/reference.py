"""The readable truth: a softmax over tokens, then a plain loop that adds them up.

Source: EfficientViM, arXiv 2411.15241, section 3.2. Runs in the dtype of x, at least float32; every
other implementation is measured against this one.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hsm_ssd_reference(x: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """The state (b, n, d) in x's dtype; arguments as in `visionssm.ops.hsm_ssd`."""
    out_dtype = x.dtype
    x, dt, A, B = (t.to(torch.promote_types(torch.float32, out_dtype)) for t in (x, dt, A, B))
    weights = torch.softmax(dt + A, dim=1)  # (b, l, n)
    state = x.new_zeros(x.shape[0], A.shape[0], x.shape[2])
    for t in range(x.shape[1]):
        state = state + (weights[:, t] * B[:, t])[:, :, None] * x[:, t, None, :]
    return state.to(out_dtype)
