"""Selective scan in chunked PyTorch: any device, any real dtype, traceable.

The recurrence h_t = a_t h_(t-1) + x_t, where a_t = exp(e_t A) with e_t the elapsed time, is linear,
so the length is cut into chunks of T steps that advance side by side: T steps from a zero state
give each chunk's end, the ends are a recurrence of their own, decaying by the product of a chunk's
a_t, and T more steps from the right starts give every h_t. The ends are cut in their turn, so that
all of it takes few operations, each on many elements.

Routes are scanned in groups, as many at a time as fit a block; the steps of long ones come in
several blocks. Memory is bounded, and only each block's first state is needed by the backward pass,
which recomputes the rest. A block's rows are gathered along its routes into memory that all blocks
share and that stays in the cache, and are computed in place. What comes of a group's steps is
gathered back by the inverse of its routes, which adds routes up on the way.

Backward, with g_t the gradient of h_t: g_t = C_t gy_t + a_(t+1) g_(t+1), the same recurrence run
from the end with decays shifted by one, then

    gC_t = sum_d gy_t h_t              gB_t  = sum_d g_t dt_t u_t
    gu_t = dt_t <g_t, B_t> + D gy_t    gdt_t = <g_t, B_t u_t>, and gap_t ge_t where e_t is
                                               gap_t dt_t (gap_t 1 if none is given)
    gA   = sum_t g_t e_t a_t h_(t-1)   gdelta_t = gdt_t (1 - exp(-dt_t))
                                       ge_t  = <g_t, A a_t h_(t-1)>
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import compute_dtype
from .sharing import add_up_routes, by_route

BLOCK_ELEMENTS = 5 << 16  # state elements (b k s d n) of a block: 1.25 MiB in float32
STEP_ELEMENTS = 1 << 16  # below this, a step costs its dispatch: run several chunks side by side
GPU_BLOCK_ELEMENTS, GPU_STEP_ELEMENTS = 1 << 25, 1 << 22  # where launches cost more than memory
CHUNK_STEPS = 7  # at least; the maps of an image of 224 x 224 divide into sevens
SERIAL_STEPS = 64  # fewer are not worth cutting


class _Steps(NamedTuple):
    """The inputs of a block in step order, in the compute dtype."""

    u: Tensor  # (s, b, k, d)
    dt: Tensor  # (s, b, k, d)
    elapsed: Tensor  # (s, b, k, d)
    gaps: Tensor | None  # (s, b, k, 1)
    B: Tensor  # (s, b, k, n)
    C: Tensor  # (s, b, k, n)


def saved_states(u: Tensor, b: int, k: int, length: int, d: int, n: int) -> Tensor:
    """Nothing: the backward pass computes states again."""
    return u.new_empty(0)


def num_parts(delta: Tensor) -> tuple[int, int]:
    """Parts that the gradients of B and C come in, and those of A, D and delta_bias."""
    return 1, 1


def selective_scan_forward(
    u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes,
    delta_softplus, outputs, complete, save_states,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """y (b, outputs, 1, l, d), the last state (b, k, d, n), and no saved states."""
    call = _Call(u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, delta_softplus, complete)
    with torch.autocast(u.device.type, enabled=False):  # matrix products are the state's: float32
        y, last_state = _forward(call, outputs)
    return y.unsqueeze(2).to(u.dtype), last_state, u.new_empty(0)


def selective_scan_backward(
    grad_y, grad_last_state, u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, states,
    delta_softplus, complete,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of (u, delta, A, B, C, D, delta_bias, elapsed); see `num_parts`."""
    call = _Call(u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, delta_softplus, complete)
    with torch.autocast(u.device.type, enabled=False):
        gu, gdelta, gA, gB, gC, gD, gbias, gelapsed = _backward(call, grad_y, grad_last_state)
    return (
        add_up_routes(gu, u.shape[1]).to(u.dtype), gdelta.to(delta.dtype),
        gA.mT.contiguous()[None], gB[None], gC[None],
        None if D is None else gD[None], None if delta_bias is None else gbias[None],
        None if elapsed is None else gelapsed.to(elapsed.dtype),
    )  # fmt: skip


def _forward(call: _Call, outputs: int) -> tuple[Tensor, Tensor]:
    """y (b, outputs, l, d) and the last state, in the compute dtype."""
    d = call.A.shape[1]
    y = call.new_tokens(1 if outputs == 1 else call.k, d)
    last_state = call.new_state()
    for group in call.groups():
        rows, state = group.rows_of_steps("y", d), group.part(last_state)
        for block in group.blocks():
            y_block = rows[block]
            steps = group.steps(block, u=y_block)  # until y takes its place
            h = group.increments(steps)
            state.copy_(_recurrence(group.decay(steps, overwrite=True), h, state))
            if group.D is None:
                y_block.zero_()
            else:
                y_block *= group.D
            _add_contracted(y_block, h, steps.C)
        group.put(rows, y)
    return add_up_routes(y, outputs), last_state


def _backward(call: _Call, grad_y: Tensor, grad_last_state: Tensor | None) -> tuple[Tensor, ...]:
    """All gradients in the compute dtype, that of elapsed without channels if it is missing."""
    k, (d, n) = call.k, call.A.shape[1:]
    has_elapsed = call.elapsed is not None
    grad_y = _of_one_or_all(grad_y.to(call.dtype), k).contiguous()
    gu = call.new_tokens(call.u.shape[1], d)
    gdelta, gB, gC = (call.new_tokens(k, width) for width in (d, n, n))
    gelapsed = call.new_tokens(k, d if has_elapsed else 0)
    gA, gD, gbias = call.A.new_zeros(k, d, n), call.A.new_zeros(k, d), call.A.new_zeros(k, d)
    carries = call.new_state() if grad_last_state is None else grad_last_state
    for group in call.groups():
        blocks = group.blocks()
        starts = [group.part(call.new_state())]
        for block in blocks[:-1]:
            steps = group.steps(block)
            h = group.increments(steps)
            starts.append(_recurrence(group.decay(steps), h, starts[-1]).clone())

        gu_rows, gdt_rows = (group.rows_of_steps(name, d) for name in ("gu", "gdt"))
        gB_rows, gC_rows = (group.rows_of_steps(name, n) for name in ("gB", "gC"))
        ge_rows = group.rows_of_steps("ge", d if has_elapsed else 0)
        carry = group.part(carries)
        for block, start in zip(reversed(blocks), reversed(starts), strict=True):
            steps, gy = group.steps(block), group.take(grad_y, block)
            decay, h = group.decay(steps), group.increments(steps)
            _recurrence(decay, h, start)
            g = torch.mul(gy[..., None], steps.C[..., None, :], out=call.scratch("g", *h.shape))
            g[-1].add_(carry)  # undecayed from the right
            _recurrence(decay[1:], g[:-1], g[-1], reverse=True)
            carry = decay[0] * g[0]
            gC_rows[block] = _contract_channels(gy, h)
            gB_rows[block] = _contract_channels(steps.dt * steps.u, g)
            gB_dot = _add_contracted(torch.zeros_like(gy), g, steps.B)
            gdecay = decay.mul_(g)  # gradient of elapsed A
            gdecay[0].mul_(start)
            gdecay[1:].mul_(h[:-1])
            gA[group.routes] += (gdecay * steps.elapsed[..., None]).sum((0, 1))
            gtime = (gdecay * group.A).sum(-1)
            if steps.gaps is not None:
                gtime *= steps.gaps
            gdt = steps.u * gB_dot
            if not has_elapsed:
                gdt += gtime
            else:
                ge_rows[block] = gtime
                if group.padding is not None:
                    gdt += gtime.where(group.padding[block], 0)
            if call.softplus:
                gdt *= torch.expm1(-steps.dt).neg_()
            gdt_rows[block] = gdt
            torch.mul(steps.dt, gB_dot, out=gu_rows[block])
            if group.D is not None:
                gu_rows[block].addcmul_(group.D, gy)
                gD[group.routes] += (gy * steps.u).sum((0, 1))
            if group.delta_bias is not None:
                gbias[group.routes] += gdt.sum((0, 1))
        group.put(gu_rows, gu)
        group.put(gdt_rows, gdelta)
        group.put(gB_rows, gB)
        group.put(gC_rows, gC)
        if has_elapsed:
            group.put(ge_rows, gelapsed)

    return gu, gdelta, gA, gB, gC, gD, gbias, gelapsed


def _of_one_or_all(x: Tensor, k: int) -> Tensor:
    """Rows that all of k routes share, or none: a group may end between routes that share some."""
    return x if x.shape[1] == 1 else by_route(x, k)


def _block_elements(device: torch.device) -> int:
    return BLOCK_ELEMENTS if device.type == "cpu" else GPU_BLOCK_ELEMENTS


class _Call:
    """One call's tensors in the compute dtype, and the memory that its blocks share."""

    def __init__(
        self, u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, delta_softplus, complete
    ):
        self.b, self.k, self.l, _ = delta.shape
        self.dtype = compute_dtype(u)
        u = _of_one_or_all(u, self.k)
        self.u, self.delta, self.B, self.C = (
            t.to(self.dtype).contiguous() for t in (u, delta, B, C)
        )
        self.elapsed = None if elapsed is None else elapsed.to(self.dtype).contiguous()
        self.gaps = gaps
        self.A = A.mT.to(self.dtype)
        self.D, self.delta_bias = (None if t is None else t.to(self.dtype) for t in (D, delta_bias))
        self.softplus = delta_softplus
        self.complete = complete or routes is None
        if routes is None:
            routes = torch.arange(self.l, device=u.device).expand(self.k, -1)
        self.routes = routes.expand(self.b, -1, -1).long()
        self._memory: dict[str, Tensor] = {}

    def groups(self) -> Iterator[_Group]:
        """Cut images and routes into groups of at most a block's elements, or single routes."""
        fitting = _block_elements(self.A.device) // (self.routes.shape[2] * self.A[0].numel())
        images = max(1, fitting // self.k)
        routes = self.k if fitting >= self.k else max(1, fitting)
        for i in range(0, self.b, images):
            for j in range(0, self.k, routes):
                yield _Group(self, slice(i, i + images), slice(j, j + routes))

    def new_tokens(self, k: int, width: int) -> Tensor:
        """Zeros for (b, k, l, width)."""
        return self.A.new_zeros(self.b, k, self.l, width)

    def new_state(self) -> Tensor:
        """A zero state (b, k, d, n)."""
        return self.A.new_zeros(self.b, *self.A.shape)

    def scratch(self, name: str, *shape: int) -> Tensor:
        """Memory under a name for all blocks in turn: of a new tensor, every page is a fault."""
        size = math.prod(shape)
        if name not in self._memory or self._memory[name].numel() < size:
            self._memory[name] = self.A.new_empty(size)
        return self._memory[name][:size].view(shape)


class _Group:
    """Routes of one image, or all routes of several, which advance side by side.

    Rows are in step order (s, b, k, c), with the images and routes of the group.
    """

    def __init__(self, call: _Call, images: slice, routes: slice):
        self.call, self.images, self.routes = call, images, routes
        self.A = call.A[routes]
        self.D, self.delta_bias = (
            None if t is None else t[routes] for t in (call.D, call.delta_bias)
        )
        tokens = self.part(call.routes).permute(2, 0, 1)
        self.length, self.b, self.k = tokens.shape
        steps = torch.arange(tokens.numel(), device=tokens.device).view(tokens.shape)
        visited, self.padding = tokens, None
        if not call.complete:
            self.padding = (tokens < 0)[..., None]
            visited, tokens = tokens.where(tokens >= 0, call.l), tokens.clamp(min=0)
        # A token that no step visits reads the zeros behind the last step.
        inverse = tokens.new_full((call.l + 1, self.b, self.k), tokens.numel())
        self.inverse = inverse.scatter_(0, visited, steps)[:-1].transpose(0, 1)  # (b, l, k)
        self.rows = {k: (tokens + self._first_rows(k)).flatten() for k in (1, call.k)}

    def _first_rows(self, k: int) -> Tensor:
        """Rows of token 0 (b, k or 1) where k routes have rows of their own."""
        rows = torch.arange(0, self.call.b * k * self.call.l, self.call.l, device=self.A.device)
        return rows.view(self.call.b, k)[self.images, self.routes if k > 1 else slice(None)]

    def part(self, x: Tensor) -> Tensor:
        """Of (b, k, ...), what belongs to the group."""
        return x[self.images, self.routes]

    def blocks(self) -> list[slice]:
        """Cut the steps into even blocks of about a block's elements."""
        fitting = max(1, _block_elements(self.A.device) // (self.b * self.A.numel()))
        size = -(-self.length // -(-self.length // fitting))
        if size > CHUNK_STEPS:
            size = -(-size // CHUNK_STEPS) * CHUNK_STEPS
        return [slice(i, min(i + size, self.length)) for i in range(0, self.length, size)]

    def steps(self, block: slice, u: Tensor | None = None) -> _Steps:
        """The inputs of a block; `u` is memory for u."""
        call = self.call
        u = self.take(call.u, block, u)
        B, C = self.take(call.B, block), self.take(call.C, block)
        pre = self.take(call.delta, block, call.scratch("x", *u.shape))
        if self.delta_bias is not None:
            pre += self.delta_bias
        dt = call.scratch("dt", *u.shape)
        if call.softplus:  # in a fifth less time than F.softplus; exp(20) + 1 is exp(20)
            torch.clamp(pre, max=20, out=dt).exp_().log1p_()
            torch.maximum(dt, pre, out=dt)
        else:
            dt.copy_(pre)
        elapsed, gaps = dt, None
        if call.gaps is not None:
            gaps = self.part(call.gaps)[..., block].permute(2, 0, 1)[..., None]
            elapsed = torch.mul(dt, gaps, out=call.scratch("elapsed", *dt.shape))
        if call.elapsed is not None:
            elapsed = self.take(call.elapsed, block)
            if self.padding is not None:
                elapsed = dt.where(self.padding[block], elapsed)
        return _Steps(u, dt, elapsed, gaps, B, C)

    def increments(self, steps: _Steps) -> Tensor:
        """x = dt u B, (s, b, k, d, n); the memory of delta is free for it."""
        n = self.A.shape[2]
        if n == 1:
            du = torch.mul(steps.dt, steps.u, out=self.call.scratch("x", *steps.dt.shape))
            return du.mul_(steps.B)[..., None]
        x = self.call.scratch("x", *steps.dt.shape, n)
        return torch.mul((steps.dt * steps.u)[..., None], steps.B[..., None, :], out=x)

    def decay(self, steps: _Steps, overwrite: bool = False) -> Tensor:
        """exp(e A), (s, b, k, d, n); it may overwrite dt, so that all memory stays in the cache."""
        n = self.A.shape[2]
        name = "dt" if overwrite and n == 1 else "decay"
        out = self.call.scratch(name, *steps.dt.shape, n)
        return torch.mul(steps.elapsed[..., None], self.A, out=out).exp_()

    def take(self, x: Tensor, block: slice, out: Tensor | None = None) -> Tensor:
        """Rows of tokens (b, k or 1, l, c) for the steps of a block (s, b, k, c); padding is 0."""
        first, last = block.start * self.b * self.k, block.stop * self.b * self.k
        rows = self.rows[x.shape[1]][first:last]
        if out is None:
            out = x.new_empty(block.stop - block.start, self.b, self.k, x.shape[3])
        torch.index_select(x.flatten(0, 2), 0, rows, out=out.view(-1, x.shape[3]))
        return out if self.padding is None else out.masked_fill_(self.padding[block], 0)

    def rows_of_steps(self, name: str, width: int) -> Tensor:
        """Memory for (s, b, k, width), and a step of zeros behind."""
        rows = self.call.scratch(name, self.length + 1, self.b, self.k, width)
        rows[-1] = 0
        return rows

    def put(self, rows: Tensor, tokens: Tensor) -> None:
        """Rows of steps (s + 1, b, k, c) to their tokens (b, k, l, c), or added up (b, 1, l, c)."""
        rows = rows.flatten(0, 2)
        if tokens.shape[1] == self.call.k:
            index = self.inverse.transpose(1, 2).flatten()
            torch.index_select(rows, 0, index, out=self.part(tokens).view(-1, rows.shape[1]))
        else:
            sums = F.embedding_bag(self.inverse.flatten(0, 1), rows, mode="sum")
            tokens = tokens[self.images]
            tokens += sums.view(tokens.shape)


def _recurrence(decay: Tensor, x: Tensor, state: Tensor, reverse: bool = False) -> Tensor:
    """h_t = decay_t h_(t-1) + x_t from `state` (b, k, d, n), or from the end if `reverse`.

    All h (s, b, k, d, n) are written over x.

    Returns:
        the last h.
    """
    elements = STEP_ELEMENTS if x.device.type == "cpu" else GPU_STEP_ELEMENTS
    size = max(CHUNK_STEPS, -(-len(x) // max(1, elements // state.numel())))
    if len(x) < SERIAL_STEPS or len(x) < 2 * size:
        steps = list(zip(decay.unbind(), x.unbind(), strict=True))
        for decay_t, x_t in reversed(steps) if reverse else steps:
            state = x_t.addcmul_(decay_t, state)
        return state

    chunks, rest = divmod(len(x), size)
    body = slice(rest, None) if reverse else slice(len(x) - rest)
    decays, xs = (t[body].unflatten(0, (chunks, size)) for t in (decay, x))
    steps = list(zip(decays.unbind(1), xs.unbind(1), strict=True))
    if reverse:
        steps.reverse()
    end = steps[0][1].clone()
    for decay_t, x_t in steps[1:]:
        torch.addcmul(x_t, decay_t, end, out=end)
    last = _recurrence(decays.prod(1), end, state, reverse)
    h = torch.cat((end[1:], state[None]) if reverse else (state[None], end[:-1]))
    for decay_t, x_t in steps:
        h = x_t.addcmul_(decay_t, h)
    uncut = slice(rest) if reverse else slice(len(x) - rest, None)
    return _recurrence(decay[uncut], x[uncut], last, reverse)


def _add_contracted(y: Tensor, h: Tensor, C: Tensor) -> Tensor:
    """y += <h, C> over n: (s, b, k, d), (s, b, k, d, n), (s, b, k, n)."""
    if C.shape[-1] == 1:
        return y.addcmul_(h[..., 0], C)
    return y.add_((h @ C[..., None])[..., 0])


def _contract_channels(x: Tensor, h: Tensor) -> Tensor:
    """sum over d of x h: (s, b, k, d), (s, b, k, d, n) -> (s, b, k, n)."""
    return (x[..., None, :] @ h)[..., 0, :]
