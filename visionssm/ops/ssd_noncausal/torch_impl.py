"""Non-causal SSD as two matrix products: any device, any real dtype, traceable.

Weights, decay rates included, are computed in float32 and rounded to the dtype of x, as is what the
products multiply: a tensor of the size of x is never widened.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..dispatch import compute_dtype
from ..ssd.reference import step_sizes
from ..ssd.torch_impl import own_precision


def ssd_noncausal_torch(
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
    dtype = compute_dtype(x)
    dt = step_sizes(dt, dt_bias, dt_softplus, None, dtype)
    weight = (-A.to(dtype) * dt).to(x.dtype)
    by_group = (x.shape[2] // B.shape[2], B.shape[2])
    weighted = (x * weight[..., None]).unflatten(2, by_group)
    B, C = B.to(x.dtype), C.to(x.dtype)
    with own_precision(x.device):
        state = torch.einsum("blgn,blqgp->bgnqp", B, weighted)
        y = torch.einsum("blgn,bgnqp->blqgp", C, state).flatten(2, 3)
    return y if D is None else torch.addcmul(y, D.to(x.dtype)[:, None], x)
