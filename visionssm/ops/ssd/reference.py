"""The readable truth: the state-space recurrence with one decay a head, as a plain loop.

Source: Transformers are SSMs, arXiv 2405.21060, section 6. Runs in the dtype of x, at least
float32; the chunked matrix products are measured against this.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import compute_dtype


def step_sizes(
    dt: Tensor,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    dt_limit: tuple[float, float] | None,
    dtype: torch.dtype,
) -> Tensor:
    """dt (b, l, h) with bias, softplus and limits applied, in `dtype`."""
    dt = dt.to(dtype)
    if dt_bias is not None:
        dt = dt + dt_bias.to(dtype)
    if dt_softplus:
        dt = F.softplus(dt)
    return dt if dt_limit is None else dt.clamp(*dt_limit)


def ssd_reference(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    z: Tensor | None,
    dt_softplus: bool,
    dt_limit: tuple[float, float] | None,
    initial_states: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y (b, l, h, p) in x's dtype and the final states; arguments as in `visionssm.ops.ssd`."""
    out_dtype = x.dtype
    dtype = compute_dtype(x)
    x, A, B, C = (t.to(dtype) for t in (x, A, B, C))
    dt = step_sizes(dt, dt_bias, dt_softplus, dt_limit, dtype)
    b, l, h, p = x.shape
    B, C = (t.repeat_interleave(h // t.shape[2], dim=2) for t in (B, C))  # (b, l, h, n)
    state = x.new_zeros(b, h, p, B.shape[3])
    if initial_states is not None:
        state = initial_states.to(dtype)
    outputs = []
    for t in range(l):
        step = dt[:, t, :, None, None]
        added = step * x[:, t, :, :, None] * B[:, t, :, None]
        state = torch.exp(step * A[:, None, None]) * state + added
        outputs.append((state * C[:, t, :, None]).sum(-1))
    y = torch.stack(outputs, dim=1)
    if D is not None:
        y = y + D.to(dtype).view(h, -1) * x
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(out_dtype), state
