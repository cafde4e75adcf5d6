"""Selective scan in chunked PyTorch: any device, any real dtype, traceable.

The recurrence h_t = a_t h_(t-1) + x_t is linear, so the length is cut into c chunks of T steps
that advance side by side: T steps from a zero state give each chunk's end, c steps carry the ends
across chunks (h_end = exp(A sum dt) h_start + end), and T more steps from the right starts give
every h_t. 2 T + c tensor operations replace c T. Long inputs are taken a block of steps at a time,
which bounds the memory; only the block's first state is kept for the backward pass.

Backward, with g_t the gradient of h_t: g_t = C_t gy_t + a_(t+1) g_(t+1), the same recurrence run
from the end with step sizes shifted by one, then

    gC_t = sum_d gy_t h_t              gB_t  = sum_d g_t dt_t u_t
    gu_t = dt_t <g_t, B_t> + D gy_t    gdt_t = <g_t, A a_t h_(t-1) + B_t u_t>
    gA   = sum_t g_t dt_t a_t h_(t-1)  gdelta_t = gdt_t sigmoid(delta_t + bias)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import gather_steps, scatter_steps

BLOCK_ELEMENTS = 1 << 23  # state elements (b k s d n) held at once: 32 MiB in float32
STEP_ELEMENTS = 1 << 15  # below this, a step costs its dispatch: run several chunks side by side


class _Steps(NamedTuple):
    """Inputs in step order, in the compute dtype."""

    u: Tensor  # (b, k, s, d)
    pre: Tensor  # delta + bias, (b, k, s, d)
    dt: Tensor  # (b, k, s, d)
    B: Tensor  # (b, k, s, n)
    C: Tensor  # (b, k, s, n)


def selective_scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    routes: Tensor | None,
    delta_softplus: bool,
    reduce_sum: bool,
) -> tuple[Tensor, Tensor]:
    """y (b, k, l, d) or (b, l, d) in u's dtype, and the last state (b, k, d, n)."""
    routes = _with_batch_axis(routes)
    A = A.to(compute_dtype(u))
    steps = _in_step_order(u, delta, B, C, delta_bias, routes, delta_softplus, A.dtype)
    y = torch.empty_like(steps.dt)
    state = steps.dt.new_zeros(u.shape[0], *A.shape)
    for begin, end in _blocks(steps.dt, A):
        dt, Bx, Cx = (t[:, :, begin:end] for t in (steps.dt, steps.B, steps.C))
        x = (dt * steps.u[:, :, begin:end])[..., None] * Bx[..., None, :]
        h, state = _recurrence(dt, A, x, state)
        y[:, :, begin:end] = _contract_state(h, Cx)
    if D is not None:
        y += D.to(y.dtype)[:, None] * steps.u
    y = scatter_steps(y, routes, u.shape[2])
    return (y.sum(1) if reduce_sum else y).to(u.dtype), state


def selective_scan_backward(
    grad_y: Tensor,
    grad_last_state: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    routes: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of (u, delta, A, B, C, D, delta_bias); grad_y (b, k, l, d) may be a view."""
    b, _, l, _ = u.shape
    num_routes = delta.shape[1]
    routes = _with_batch_axis(routes)
    A_ = A.to(compute_dtype(u))
    steps = _in_step_order(u, delta, B, C, delta_bias, routes, delta_softplus, A_.dtype)
    gy = gather_steps(grad_y.expand(b, num_routes, l, -1).to(A_.dtype), routes)

    blocks = _blocks(steps.dt, A_)
    starts = [steps.dt.new_zeros(b, *A_.shape)]
    for begin, end in blocks[:-1]:
        dt, Bx = steps.dt[:, :, begin:end], steps.B[:, :, begin:end]
        x = (dt * steps.u[:, :, begin:end])[..., None] * Bx[..., None, :]
        starts.append(_recurrence(dt, A_, x, starts[-1])[1])

    gu, gdt = torch.empty_like(steps.dt), torch.empty_like(steps.dt)
    gB, gC = torch.empty_like(steps.B), torch.empty_like(steps.C)
    gA = torch.zeros_like(A_)
    carry = starts[0].new_zeros(starts[0].shape) if grad_last_state is None else grad_last_state
    for (begin, end), start in zip(reversed(blocks), reversed(starts), strict=True):
        dt, ux, Bx, Cx, gyx = (
            t[:, :, begin:end] for t in (steps.dt, steps.u, steps.B, steps.C, gy)
        )
        du = dt * ux
        h, _ = _recurrence(dt, A_, du[..., None] * Bx[..., None, :], start)
        dt_next = F.pad(dt[:, :, 1:], (0, 0, 0, 1))  # the carry from the right arrives undecayed
        g, _ = _recurrence(dt_next, A_, gyx[..., None] * Cx[..., None, :], carry, reverse=True)
        decay = torch.exp(dt[..., None] * A_[:, None])
        carry = decay[:, :, 0] * g[:, :, 0]
        gC[:, :, begin:end] = _contract_channels(gyx, h)
        gB[:, :, begin:end] = _contract_channels(du, g)
        gB_dot = _contract_state(g, Bx)
        h_prev = torch.cat([start[:, :, None], h[:, :, :-1]], dim=2)
        gdecay = g * decay * h_prev  # gradient of dt A
        gA += (gdecay * dt[..., None]).sum((0, 2))
        gu[:, :, begin:end] = dt * gB_dot
        gdt[:, :, begin:end] = (gdecay * A_[:, None]).sum(-1) + ux * gB_dot
    if delta_softplus:
        gdt = gdt * torch.where(steps.pre > 20, 1.0, torch.sigmoid(steps.pre))
    gD = None if D is None else (gy * steps.u).sum((0, 2)).to(D.dtype)
    gbias = None if delta_bias is None else gdt.sum((0, 2)).to(delta_bias.dtype)
    if D is not None:
        gu += D.to(gu.dtype)[:, None] * gy

    gu, gdt, gB, gC = (scatter_steps(t, routes, l) for t in (gu, gdt, gB, gC))
    if u.shape[1] != num_routes:
        gu = gu.sum(1, keepdim=True)
    return (
        gu.to(u.dtype), gdt.to(delta.dtype), gA.to(A.dtype),
        gB.to(B.dtype), gC.to(C.dtype), gD, gbias,
    )  # fmt: skip


def compute_dtype(u: Tensor) -> torch.dtype:
    """float32, or float64 when u is."""
    return torch.promote_types(torch.float32, u.dtype)


def _with_batch_axis(routes: Tensor | None) -> Tensor | None:
    return routes[None] if routes is not None and routes.dim() == 2 else routes


def _in_step_order(u, delta, B, C, delta_bias, routes, delta_softplus, dtype) -> _Steps:
    u = gather_steps(u.expand(delta.shape).to(dtype), routes)
    pre, B, C = (gather_steps(t.to(dtype), routes) for t in (delta, B, C))
    if delta_bias is not None:
        pre = pre + delta_bias.to(dtype)[:, None]
    return _Steps(u, pre, F.softplus(pre) if delta_softplus else pre, B, C)


def _blocks(dt: Tensor, A: Tensor) -> list[tuple[int, int]]:
    """Cut the steps into blocks of at most BLOCK_ELEMENTS state elements."""
    length = dt.shape[2]
    size = max(1, BLOCK_ELEMENTS // max(1, dt.shape[0] * A.numel()))
    return [(i, min(i + size, length)) for i in range(0, length, size)]


def _recurrence(
    dt: Tensor, A: Tensor, x: Tensor, state: Tensor, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """h_t = exp(dt_t A) h_(t-1) + x_t from `state` (b, k, d, n), or from the end if `reverse`.

    Returns:
        all h (b, k, s, d, n), written over x, and the last one.
    """
    b, k, s, d, n = x.shape
    chunks = max(1, min(math.isqrt(s), STEP_ELEMENTS // max(1, b * k * d * n)))
    steps = -(-s // chunks)
    pad = chunks * steps - s
    if pad:  # steps of zero length leave the state alone, so they may sit where the scan ends
        before, after = (pad, 0) if reverse else (0, pad)
        dt = F.pad(dt, (0, 0, before, after))
        x = F.pad(x, (0, 0, 0, 0, before, after))
    dt = dt.unflatten(2, (chunks, steps))
    x = x.unflatten(2, (chunks, steps))
    decay = torch.exp(dt[..., None] * A[:, None, None])
    order = range(steps - 1, -1, -1) if reverse else range(steps)

    h = state[:, :, None]
    if chunks > 1:
        end = torch.zeros_like(x[:, :, :, 0])
        for t in order:
            end = torch.addcmul(x[:, :, :, t], decay[:, :, :, t], end)
        across = torch.exp(dt.sum(3)[..., None] * A[:, None])
        starts = [state]
        for c in range(chunks - 1, 0, -1) if reverse else range(chunks - 1):
            starts.append(torch.addcmul(end[:, :, c], across[:, :, c], starts[-1]))
        h = torch.stack(starts[::-1] if reverse else starts, dim=2)
    for t in order:
        h = torch.addcmul(x[:, :, :, t], decay[:, :, :, t], h)
        x[:, :, :, t] = h
    last = h[:, :, 0 if reverse else -1].clone()
    x = x.flatten(2, 3)
    if pad:
        x = x[:, :, pad:] if reverse else x[:, :, :s]
    return x, last


def _contract_state(h: Tensor, C: Tensor) -> Tensor:
    """<h, C> over n: (b, k, s, d, n), (b, k, s, n) -> (b, k, s, d)."""
    if C.shape[-1] == 1:
        return h[..., 0] * C
    return (h @ C[..., None])[..., 0]


def _contract_channels(x: Tensor, h: Tensor) -> Tensor:
    """sum over d of x h: (b, k, s, d), (b, k, s, d, n) -> (b, k, s, n)."""
    return (x[..., None, :] @ h)[..., 0, :]
