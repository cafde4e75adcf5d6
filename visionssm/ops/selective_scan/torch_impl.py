"""Selective scan in chunked PyTorch: any device, any real dtype, traceable.

The recurrence h_t = a_t h_(t-1) + x_t, where a_t = exp(e_t A) with e_t the elapsed time, is linear,
so the length is cut into c chunks of T steps that advance side by side: T steps from a zero state
give each chunk's end, c steps carry the ends across chunks (h_end = exp(A sum e) h_start + end),
and T more steps from the right starts give every h_t. 2 T + c tensor operations replace c T. The
scan advances a block of steps at a time, its rows gathered along the routes and written back:
temporaries stay in the cache, memory is bounded, and only each block's first state is needed by the
backward pass, which recomputes it.

Backward, with g_t the gradient of h_t: g_t = C_t gy_t + a_(t+1) g_(t+1), the same recurrence run
from the end with elapsed times shifted by one, then

    gC_t = sum_d gy_t h_t              gB_t  = sum_d g_t dt_t u_t
    gu_t = dt_t <g_t, B_t> + D gy_t    gdt_t = <g_t, B_t u_t>, and ge_t where e_t is dt_t
    gA   = sum_t g_t e_t a_t h_(t-1)   gdelta_t = gdt_t sigmoid(delta_t + bias)
                                       ge_t  = <g_t, A a_t h_(t-1)>
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_ELEMENTS = 1 << 19  # state elements (b k s d n) of a block: 2 MiB in float32
BLOCK_MULTIPLE = 32  # steps of a longer block: it divides into chunks without padding
STEP_ELEMENTS = 1 << 14  # below this, a step costs its dispatch: run several chunks side by side


class _Steps(NamedTuple):
    """The inputs of a block in step order, in the compute dtype."""

    u: Tensor  # (b, k, s, d)
    pre: Tensor  # delta + bias, (b, k, s, d)
    dt: Tensor  # (b, k, s, d)
    elapsed: Tensor  # (b, k, s, d)
    B: Tensor  # (b, k, s, n)
    C: Tensor  # (b, k, s, n)

    def increments(self) -> Tensor:
        """x = dt u B, (b, k, s, d, n)."""
        du = (self.dt * self.u)[..., None]
        return du.mul_(self.B[..., None, :]) if self.B.shape[-1] == 1 else du * self.B[..., None, :]


def selective_scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    elapsed: Tensor | None,
    routes: Tensor | None,
    delta_softplus: bool,
    reduce_sum: bool,
    complete: bool,
) -> tuple[Tensor, Tensor]:
    """y (b, k, l, d) or (b, l, d) in u's dtype, and the last state (b, k, d, n)."""
    call = _Call(u, delta, A, B, C, D, delta_bias, elapsed, routes, delta_softplus, complete)
    y = call.new_tokens(delta.shape[3])
    state = call.new_state()
    for block in call.blocks():
        steps = call.steps(*block)
        h, state = _recurrence(steps.elapsed, call.A, steps.increments(), state)
        rows = _contract_state(h, steps.C)
        if call.D is not None:
            rows.addcmul_(call.D, steps.u)
        call.put(y, rows, *block)
    y = call.tokens(y)
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
    elapsed: Tensor | None,
    routes: Tensor | None,
    delta_softplus: bool,
    complete: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of the tensors up to elapsed, in order; grad_y is (b, 1 or k, l, d)."""
    call = _Call(u, delta, A, B, C, D, delta_bias, elapsed, routes, delta_softplus, complete)
    d, n = A.shape[1:]
    grad_y = grad_y.to(call.dtype).expand(delta.shape).contiguous()
    blocks = call.blocks()
    starts = [call.new_state()]
    for block in blocks[:-1]:
        steps = call.steps(*block)
        starts.append(_recurrence(steps.elapsed, call.A, steps.increments(), starts[-1])[1])

    gu, gdelta, gB, gC = (call.new_tokens(width) for width in (d, d, n, n))
    gelapsed = call.new_tokens(d if elapsed is not None else 0)
    gA, gD, gbias = torch.zeros_like(call.A), call.A.new_zeros(1), call.A.new_zeros(1)
    carry = call.new_state() if grad_last_state is None else grad_last_state
    for block, start in zip(reversed(blocks), reversed(starts), strict=True):
        steps, gy = call.steps(*block), call.take(grad_y, *block)
        h, _ = _recurrence(steps.elapsed, call.A, steps.increments(), start)
        # Shifted by one step; the carry from the right arrives undecayed.
        elapsed_next = F.pad(steps.elapsed[:, :, 1:], (0, 0, 0, 1))
        w = gy[..., None] * steps.C[..., None, :]
        g, _ = _recurrence(elapsed_next, call.A, w, carry, reverse=True)
        decay = (steps.elapsed[..., None] * call.A[:, None]).exp_()
        carry = decay[:, :, 0] * g[:, :, 0]
        call.put(gC, _contract_channels(gy, h), *block)
        call.put(gB, _contract_channels(steps.dt * steps.u, g), *block)
        gB_dot = _contract_state(g, steps.B)
        h_prev = torch.cat([start[:, :, None], h[:, :, :-1]], dim=2)
        gdecay = g * decay * h_prev  # gradient of elapsed A
        gA += (gdecay * steps.elapsed[..., None]).sum((0, 2))
        gtime = (gdecay * call.A[:, None]).sum(-1)
        gdt = steps.u * gB_dot
        if elapsed is None:
            gdt += gtime
        else:
            call.put(gelapsed, gtime, *block)
            if (padding := call.padding(*block)) is not None:
                gdt += gtime.where(padding, 0)
        if delta_softplus:
            gdt = gdt * torch.where(steps.pre > 20, 1.0, torch.sigmoid(steps.pre))
        gu_rows = steps.dt * gB_dot
        if call.D is not None:
            gu_rows.addcmul_(call.D, gy)
            gD = gD + (gy * steps.u).sum((0, 2))
        if delta_bias is not None:
            gbias = gbias + gdt.sum((0, 2))
        call.put(gu, gu_rows, *block)
        call.put(gdelta, gdt, *block)

    gu, gdelta, gB, gC = (call.tokens(t) for t in (gu, gdelta, gB, gC))
    if u.shape[1] != delta.shape[1]:
        gu = gu.sum(1, keepdim=True)
    return (
        gu.to(u.dtype), gdelta.to(delta.dtype), gA.to(A.dtype), gB.to(B.dtype), gC.to(C.dtype),
        None if D is None else gD.to(D.dtype),
        None if delta_bias is None else gbias.to(delta_bias.dtype),
        None if elapsed is None else call.tokens(gelapsed).to(elapsed.dtype),
    )  # fmt: skip


def compute_dtype(u: Tensor) -> torch.dtype:
    """float32, or float64 when u is."""
    return torch.promote_types(torch.float32, u.dtype)


class _Call:
    """One call's tensors in the compute dtype, and the way between token rows and step order.

    Token tensors (b, k or 1, l, c) are flattened to rows, so that a step is one row index. Outputs
    have a spare last row, where padding steps write.
    """

    def __init__(self, u, delta, A, B, C, D, delta_bias, elapsed, routes, delta_softplus, complete):
        self.b, self.k, self.l, _ = delta.shape
        self.dtype = compute_dtype(u)
        self.u, self.delta, self.B, self.C = (
            t.to(self.dtype).contiguous() for t in (u, delta, B, C)
        )
        self.A = A.to(self.dtype)
        self.D, self.delta_bias = (
            None if t is None else t.to(self.dtype)[:, None] for t in (D, delta_bias)
        )
        self.elapsed = None if elapsed is None else elapsed.to(self.dtype).contiguous()
        self.softplus = delta_softplus
        self.complete = complete or routes is None
        self.routes = routes
        if routes is not None:
            self.routes = (routes if routes.dim() == 3 else routes[None]).long()

    def blocks(self) -> list[tuple[int, int]]:
        """Cut the steps into even blocks of about BLOCK_ELEMENTS state elements each."""
        length = self.l if self.routes is None else self.routes.shape[2]
        fitting = max(1, BLOCK_ELEMENTS // (self.b * self.A.numel()))
        size = -(-length // -(-length // fitting))
        if size > BLOCK_MULTIPLE:
            size = -(-size // BLOCK_MULTIPLE) * BLOCK_MULTIPLE
        return [(i, min(i + size, length)) for i in range(0, length, size)]

    def steps(self, begin: int, end: int) -> _Steps:
        """The inputs of steps begin to end."""
        u, pre, B, C = (self.take(t, begin, end) for t in (self.u, self.delta, self.B, self.C))
        if self.delta_bias is not None:
            pre = pre + self.delta_bias
        dt = elapsed = F.softplus(pre) if self.softplus else pre
        if self.elapsed is not None:
            elapsed = self.take(self.elapsed, begin, end)
            if (padding := self.padding(begin, end)) is not None:
                elapsed = dt.where(padding, elapsed)
        return _Steps(u, pre, dt, elapsed, B, C)

    def padding(self, begin: int, end: int) -> Tensor | None:
        """Which steps are padding, (b or 1, k, end - begin, 1); None where none can be."""
        return None if self.complete else (self.routes[:, :, begin:end] < 0)[..., None]

    def take(self, x: Tensor, begin: int, end: int) -> Tensor:
        """Rows of tokens (b, k or 1, l, c) in step order (b, k, end - begin, c); padding is 0."""
        if self.routes is None:
            return x[:, :, begin:end].expand(-1, self.k, -1, -1)
        route = self.routes[:, :, begin:end]
        tokens = route if self.complete else route.clamp(min=0)
        rows = self._first_rows(x.shape[1]) + tokens
        taken = x.flatten(0, 2).index_select(0, rows.flatten()).unflatten(0, rows.shape)
        return taken if self.complete else taken.masked_fill((route < 0)[..., None], 0)

    def put(self, rows: Tensor, steps: Tensor, begin: int, end: int) -> None:
        """Write steps (b, k, end - begin, c) to their tokens' rows; padding to the spare row."""
        if self.routes is None:
            self.tokens(rows)[:, :, begin:end] = steps
            return
        route = self.routes[:, :, begin:end]
        index = self._first_rows(self.k) + route
        if not self.complete:
            index = index.where(route >= 0, rows.shape[0] - 1)
        rows.index_copy_(0, index.flatten(), steps.flatten(0, 2))

    def new_tokens(self, width: int) -> Tensor:
        """Rows for (b, k, l, width) and the spare one; zero where no step may come by."""
        new = self.A.new_empty if self.complete else self.A.new_zeros
        return new(self.b * self.k * self.l + 1, width)

    def tokens(self, rows: Tensor) -> Tensor:
        """Rows as tokens (b, k, l, c)."""
        return rows[:-1].unflatten(0, (self.b, self.k, self.l))

    def new_state(self) -> Tensor:
        """A zero state (b, k, d, n)."""
        return self.A.new_zeros(self.b, *self.A.shape)

    def _first_rows(self, k: int) -> Tensor:
        """Row of token 0 for every image and route, (b, routes, 1), where k routes have rows."""
        rows = torch.arange(0, self.b * k * self.l, self.l, device=self.A.device)
        return rows.view(self.b, k, 1).expand(-1, self.k, -1)


def _recurrence(
    elapsed: Tensor, A: Tensor, x: Tensor, state: Tensor, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """h_t = exp(e_t A) h_(t-1) + x_t from `state` (b, k, d, n), or from the end if `reverse`.

    Returns:
        all h (b, k, s, d, n), written over x, and the last one.
    """
    b, k, s, d, n = x.shape
    chunks = _num_chunks(s, max(1, STEP_ELEMENTS // (b * k * d * n)))
    steps = -(-s // chunks)
    pad = chunks * steps - s
    if pad:  # steps of zero length leave the state alone, so they may sit where the scan ends
        before, after = (pad, 0) if reverse else (0, pad)
        elapsed = F.pad(elapsed, (0, 0, before, after))
        x = F.pad(x, (0, 0, 0, 0, before, after))
    elapsed = elapsed.unflatten(2, (chunks, steps))
    x = x.unflatten(2, (chunks, steps))
    x_steps = x.unbind(3)
    decay_steps = (elapsed[..., None] * A[:, None, None]).exp_().unbind(3)
    order = range(steps - 1, -1, -1) if reverse else range(steps)

    h = state[:, :, None]
    if chunks > 1:
        end = torch.zeros_like(x_steps[0])
        for t in order:
            end = torch.addcmul(x_steps[t], decay_steps[t], end)
        across = torch.exp(elapsed.sum(3)[..., None] * A[:, None])
        starts = [state]
        for c in range(chunks - 1, 0, -1) if reverse else range(chunks - 1):
            starts.append(torch.addcmul(end[:, :, c], across[:, :, c], starts[-1]))
        h = torch.stack(starts[::-1] if reverse else starts, dim=2)
    for t in order:
        h = x_steps[t].addcmul_(decay_steps[t], h)
    last = h[:, :, 0 if reverse else -1].clone()
    x = x.flatten(2, 3)
    if pad:
        x = x[:, :, pad:] if reverse else x[:, :, :s]
    return x, last


def _num_chunks(length: int, wanted: int) -> int:
    """About `wanted` chunks, at most sqrt(length); a divisor of the length if one is close."""
    most = max(1, min(math.isqrt(length), wanted))
    for chunks in (*range(most, most // 2, -1), *range(most + 1, 2 * most)):
        if length % chunks == 0:
            return chunks
    return most


def _contract_state(h: Tensor, C: Tensor) -> Tensor:
    """<h, C> over n: (b, k, s, d, n), (b, k, s, n) -> (b, k, s, d)."""
    if C.shape[-1] == 1:
        return h[..., 0] * C
    return (h @ C[..., None])[..., 0]


def _contract_channels(x: Tensor, h: Tensor) -> Tensor:
    """sum over d of x h: (b, k, s, d), (b, k, s, d, n) -> (b, k, s, n)."""
    return (x[..., None, :] @ h)[..., 0, :]
