"""Selective scan, the readable truth: one plain loop over steps.

    dt_t = softplus(delta_t + delta_bias)                       (each part optional)
    h_t  = exp(e_t A) h_(t-1) + dt_t B_t u_t,    h_0 = 0        (d, n)
    y_t  = <C_t, h_t> + D u_t                                   (d)

at the token that route k visits at step t; the elapsed time e_t is dt_t, or gap_t dt_t with gaps,
if none is given. Source: Mamba, arXiv 2312.00752, equations 2 and 4, with B discretised as dt B.
Runs in float32, or in float64 when u is; every other implementation is measured against this one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .sharing import add_up_routes, by_route


def gather_steps(x: Tensor, routes: Tensor | None) -> Tensor:
    """Rows of `x` (b, k, l, c) in the order of `routes` (b|1, k, s); a step of -1 reads zeros."""
    if routes is None:
        return x
    rows = routes.clamp(min=0).long()[..., None].expand(x.shape[0], x.shape[1], -1, x.shape[-1])
    return x.gather(2, rows).masked_fill((routes < 0)[..., None], 0)


def scatter_steps(x: Tensor, routes: Tensor | None, num_tokens: int) -> Tensor:
    """Inverse of `gather_steps`: steps (b, k, s, c) back to token rows (b, k, l, c), contiguous.

    Steps of -1 are dropped; tokens that no step visits are zero.
    """
    if routes is None:
        return x.contiguous()
    rows = routes.long().where(routes >= 0, num_tokens)  # -1 lands in a spare row, cut off below
    rows = rows[..., None].expand(x.shape[0], x.shape[1], -1, x.shape[-1])
    out = x.new_zeros(x.shape[0], x.shape[1], num_tokens + 1, x.shape[-1])
    return out.scatter(2, rows, x)[:, :, :num_tokens].contiguous()


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    delta_softplus: bool = True,
    elapsed: Tensor | None = None,
    gaps: Tensor | None = None,
    routes: Tensor | None = None,
    reduce: str = "none",
) -> tuple[Tensor, Tensor]:
    """Selective scan by a loop over steps; arguments as in `visionssm.ops.selective_scan`.

    Returns:
        y, (b, k, l, d), (b, p, l, d) or (b, l, d), in u's dtype; and the last state (b, k, d, n) in
        the compute dtype.
    """
    b, k, l, d = delta.shape
    out_dtype, slices = u.dtype, u.shape[1]
    dtype = torch.promote_types(torch.float32, u.dtype)
    u, delta, A, B, C = (t.to(dtype) for t in (u, delta, A, B, C))
    if routes is not None and routes.dim() == 2:
        routes = routes[None]

    u = gather_steps(by_route(u, k), routes)
    delta, B, C = (gather_steps(t, routes) for t in (delta, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    if gaps is not None:
        elapsed = gaps.to(dtype)[..., None] * delta
    elif elapsed is None:
        elapsed = delta
    else:
        elapsed = gather_steps(elapsed.to(dtype), routes)
        if routes is not None:
            elapsed = elapsed.where((routes >= 0)[..., None], delta)

    state = u.new_zeros(b, k, d, A.shape[-1])
    outputs = []
    for t in range(u.shape[2]):
        dt = delta[:, :, t, :, None]  # (b, k, d, 1)
        decay = torch.exp(elapsed[:, :, t, :, None] * A)
        state = decay * state + dt * B[:, :, t, None] * u[:, :, t, :, None]
        outputs.append((state * C[:, :, t, None]).sum(-1))
    y = torch.stack(outputs, dim=2)
    if D is not None:
        y = y + D.to(dtype)[:, None] * u
    y = scatter_steps(y, routes, l)
    if reduce == "sum":
        y = y.sum(1)
    elif reduce == "shared":
        y = add_up_routes(y, slices)
    return y.to(out_dtype), state
