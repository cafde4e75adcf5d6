"""The selective scan on CPUs: loops over channels, which Numba compiles to vector instructions.

A task is one image's channels, or a block of very many, walked along the routes step by step with
the states beside it in the cache: inputs are read once, outputs written once. Tasks are shared out
among threads, and do not depend on their number.

The forward pass keeps every `STEPS`-th state for the backward pass, which walks a route from its
end: it computes a segment's states again, then the gradients that the docstring of `torch_impl`
writes down. Arithmetic is float32; exponentials and logarithms are polynomials that are off by a
few units in the last place.
"""

from __future__ import annotations

import collections
import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.extending import intrinsic
from torch import Tensor

from .sharing import add_up_routes

STEPS = 32  # between two states that are kept
CHANNELS = 512  # of a task at most: long rows are quicker to read
CHANNEL_MULTIPLE = 16  # of a block: whole vectors
THREAD_ELEMENTS = 1 << 20  # states and steps of channels, some 3 ms, that are worth a thread
# Of tasks to a thread, taken one by one: after an operation of its own PyTorch's threads keep the
# cores busy for some 10 ms, in wait for the next, so that ours advance at different speeds.
SHARES = 4
LOG2E = 1.4426950408889634

REORDERED = {"contract", "reassoc", "nsz"}  # what the compiler may do to sums; NaN stays NaN

_f32, _unsigned = np.float32, np.uintp
_ZERO, _ONE, _LOG2E, _LN2 = map(_f32, (0, 1, LOG2E, 1 / LOG2E))
# exp2(r) = 1 + r (E1 + E2 r + ...) for |r| <= 1/2, and log1p(z) = z (L0 + L1 z + ...) for z in
# [0, 1]: the smallest maximum of the relative error, 9e-8 and 3e-8 before rounding.
_E1, _E2, _E3, _E4, _E5 = map(
    _f32, (0.69314698, 0.24022242, 0.055507337, 0.0096715127, 0.0013264727)
)
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = map(
    _f32,
    (0.99999997, -0.49999493, 0.33319097, -0.24842983, 0.19106008, -0.13663247, 0.078225966,
     -0.029505245, 0.0052326954),
)  # fmt: skip
_MIN_EXPONENT, _MAX_EXPONENT = _f32(-127), _f32(128)  # of which exp2 is 0 and infinity
_WHOLE = _f32(1.5 * 2**23)  # a sum with it has no place for fractions


def _compiled(fastmath: set[str]) -> Callable[[Callable], Callable]:
    """Compile at the first call, for this CPU and to run without the GIL; keep the code on disk."""
    options: dict[str, Any] = dict(nogil=True, error_model="numpy", fastmath=fastmath)

    def compiled(function: Callable) -> Callable:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # neither the package's folder nor the user's cache can be written
            return numba.njit(**options)(function)

    return compiled


@intrinsic
def _power_of_2(typingctx, exponent):
    """2^n of float32 n + `_WHOLE`, n from -127 (0) to 128 (infinity), put together from bits."""

    def codegen(context, builder, signature, args):
        i32 = ir.IntType(32)
        biased = builder.add(builder.bitcast(args[0], i32), ir.Constant(i32, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(i32, 23)), ir.FloatType())

    return numba.float32(numba.float32), codegen


@_compiled({"contract"})  # reordered, adding `_WHOLE` and taking it away would be nothing
def _exp2(x):
    x = _MIN_EXPONENT if x < _MIN_EXPONENT else x  # NaN passes comparisons this way round
    x = _MAX_EXPONENT if x > _MAX_EXPONENT else x
    exponent = x + _WHOLE
    r = x - (exponent - _WHOLE)
    series = _E1 + r * (_E2 + r * (_E3 + r * (_E4 + r * _E5)))
    return (_ONE + r * series) * _power_of_2(exponent)  # type: ignore[call-arg]  # Numba's context


@_compiled({"contract"})
def _log1p(z):
    series = _L4 + z * (_L5 + z * (_L6 + z * (_L7 + z * _L8)))
    return z * (_L0 + z * (_L1 + z * (_L2 + z * (_L3 + z * series))))


# Below, rows of tokens are whole arrays (rows, channels) and a row's number: references to a view
# would be counted at every step. Rows and channels are unsigned: a signed index might count from
# the end, of which no vectors come. Loops are many and short: of a long chain of operations the CPU
# overlaps few iterations.


@_compiled(REORDERED)
def _load_step(
    t, token, row, u_row, j, start, width, u, delta, bias, elapsed, gap, softplus,
    u_t, dt, slope, e,
):  # fmt: skip
    """Into row t: tokens, step sizes, and, if they have rows, derivatives of these by delta, and
    elapsed times.

    A token of -1 is padding: zeros, for which its step size of time passes.
    """
    if token >= 0:
        for c in range(width):
            u_t[t, c] = u[u_row, start + c]
            dt[t, c] = bias[j, start + c] + delta[row, start + c]
    else:
        for c in range(width):
            u_t[t, c] = _ZERO
            dt[t, c] = bias[j, start + c]
    if softplus and slope.size:
        for c in range(width):
            slope[t, c] = _exp2(-abs(dt[t, c]) * _LOG2E)
        for c in range(width):
            x, z = dt[t, c], slope[t, c]
            dt[t, c] = (_ZERO if x < _ZERO else x) + _log1p(z)
            slope[t, c] = (z if x < _ZERO else _ONE) / (_ONE + z)
    elif softplus:
        for c in range(width):
            x = dt[t, c]
            dt[t, c] = (_ZERO if x < _ZERO else x) + _log1p(_exp2(-abs(x) * _LOG2E))
    elif slope.size:
        for c in range(width):
            slope[t, c] = _ONE
    if e.size and elapsed.size and token >= 0:
        for c in range(width):
            e[t, c] = elapsed[row, start + c]
    elif e.size:
        for c in range(width):
            e[t, c] = dt[t, c] * gap


@_compiled(REORDERED)
def _forward(
    first, last, channels, groups, l, u, delta, A2, B, C, D, bias, elapsed, gaps, routes, softplus,
    y, last_state, states,
):  # fmt: skip
    """Tasks from `first` to before `last`: see `_Call`. Outputs are added to y."""
    k, n, d = A2.shape
    blocks, images = -(-d // channels), last_state.shape[0]
    u_routes, y_routes = len(u) // (images * l), len(y) // (images * l)
    u_t, dt = np.empty((1, channels), np.float32), np.empty((1, channels), np.float32)
    no_slope = np.empty((0, channels), np.float32)
    own_e = np.empty((1 if elapsed.size or gaps.size else 0, channels), np.float32)
    e = own_e if own_e.size else dt
    decay, y_t = np.empty(channels, np.float32), np.empty(channels, np.float32)
    h = np.empty((n, channels), np.float32)
    for task in range(first, last):
        i, group, block = task // blocks // groups, task // blocks % groups, task % blocks
        start = _unsigned(block * channels)
        width = _unsigned(min(channels, d - block * channels))
        for j in range(group * k // groups, (group + 1) * k // groups):
            first_row = (i * k + j) * l
            first_u_row = (i * u_routes + j * u_routes // k) * l
            first_y_row = (i * y_routes + j * y_routes // k) * l
            h[:] = _ZERO
            for t in range(routes.shape[2]):
                if states.size and t % STEPS == 0:
                    for m in range(n):
                        for c in range(width):
                            states[i, j, t // STEPS, m, start + c] = h[m, c]
                token = routes[i % len(routes), j, t]
                row, u_row = _unsigned(first_row + token), _unsigned(first_u_row + token)
                _load_step(
                    _unsigned(0), token, row, u_row, j, start, width,
                    u, delta, bias, elapsed, gaps[i, j, t] if gaps.size else _ONE, softplus,
                    u_t, dt, no_slope, own_e,
                )  # fmt: skip
                for c in range(width):
                    y_t[c] = D[j, start + c] * u_t[0, c]
                    u_t[0, c] *= dt[0, c]
                for m in range(n):
                    B_m = C_m = _ZERO
                    if token >= 0:
                        B_m, C_m = B[row, m], C[row, m]
                    for c in range(width):
                        decay[c] = _exp2(e[0, c] * A2[j, m, start + c])
                    for c in range(width):
                        state = decay[c] * h[m, c] + u_t[0, c] * B_m
                        h[m, c] = state
                        y_t[c] += C_m * state
                if token >= 0:
                    y_row = _unsigned(first_y_row + token)
                    for c in range(width):
                        y[y_row, start + c] += y_t[c]
            for m in range(n):
                for c in range(width):
                    last_state[i, j, start + c, m] = h[m, c]


@_compiled(REORDERED)
def _backward(
    first, last, channels, groups, l, gy, glast, u, delta, A2, B, C, D, bias, elapsed, gaps, routes,
    softplus, states, gu, gdelta, gA, gB, gC, gD, gbias, gelapsed,
):  # fmt: skip
    """Adds gradients to zeros: gA, gD and gbias by image, gB and gC by block of channels.

    With g the gradient of a state by all that follows, B_dot is <g, B>, and gtime that of elapsed
    time in units in which decays are powers of 2.
    """
    k, n, d = A2.shape
    blocks, images = -(-d // channels), glast.shape[0]
    u_routes, gu_routes = len(u) // (images * l), len(gu) // (images * l)
    y_routes = len(gy) // (images * l)
    u_t, dt = np.empty((STEPS, channels), np.float32), np.empty((STEPS, channels), np.float32)
    slope = np.empty((STEPS, channels), np.float32)
    own_e = np.empty((STEPS if elapsed.size or gaps.size else 0, channels), np.float32)
    e = own_e if own_e.size else dt
    decay = np.empty((STEPS, n, channels), np.float32)
    h = np.empty((STEPS + 1, n, channels), np.float32)
    carry, gy_t = np.empty((n, channels), np.float32), np.empty(channels, np.float32)
    B_dot, gtime = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for task in range(first, last):
        i, group, block = task // blocks // groups, task // blocks % groups, task % blocks
        start = _unsigned(block * channels)
        width = _unsigned(min(channels, d - block * channels))
        for j in range(group * k // groups, (group + 1) * k // groups):
            first_row = (i * k + j) * l
            first_u_row = (i * u_routes + j * u_routes // k) * l
            first_gu_row = (i * gu_routes + j * gu_routes // k) * l
            first_y_row = (i * y_routes + j * y_routes // k) * l
            for m in range(n):
                for c in range(width):
                    carry[m, c] = glast[i, j, start + c, m]
            for part in range(states.shape[2] - 1, -1, -1):
                steps = min(STEPS, routes.shape[2] - part * STEPS)
                for m in range(n):
                    for c in range(width):
                        h[0, m, c] = states[i, j, part, m, start + c]
                for t in range(steps):
                    token = routes[i % len(routes), j, part * STEPS + t]
                    row, u_row = _unsigned(first_row + token), _unsigned(first_u_row + token)
                    _load_step(
                        _unsigned(t), token, row, u_row, j, start, width,
                        u, delta, bias, elapsed,
                        gaps[i, j, part * STEPS + t] if gaps.size else _ONE, softplus,
                        u_t, dt, slope, own_e,
                    )  # fmt: skip
                    for m in range(n):
                        B_m = B[row, m] if token >= 0 else _ZERO
                        for c in range(width):
                            decay[t, m, c] = _exp2(e[t, c] * A2[j, m, start + c])
                        for c in range(width):
                            x = dt[t, c] * u_t[t, c] * B_m
                            h[t + 1, m, c] = decay[t, m, c] * h[t, m, c] + x
                for t in range(steps - 1, -1, -1):
                    token = routes[i % len(routes), j, part * STEPS + t]
                    row, y_row = _unsigned(first_row + token), _unsigned(first_y_row + token)
                    for c in range(width):
                        gy_t[c] = B_dot[c] = gtime[c] = _ZERO
                    if token >= 0:
                        for c in range(width):
                            gy_t[c] = gy[y_row, start + c]
                    for m in range(n):
                        B_m = C_m = gB_m = gC_m = _ZERO
                        if token >= 0:
                            B_m, C_m = B[row, m], C[row, m]
                        for c in range(width):
                            g = C_m * gy_t[c] + carry[m, c]
                            g_before = decay[t, m, c] * g
                            gexponent = g_before * h[t, m, c]
                            gC_m += gy_t[c] * h[t + 1, m, c]
                            gB_m += g * dt[t, c] * u_t[t, c]
                            carry[m, c] = g_before
                            B_dot[c] += B_m * g
                            gtime[c] += A2[j, m, start + c] * gexponent
                            gA[i, j, m, start + c] += e[t, c] * gexponent
                        if token >= 0:
                            gB[block, row, m], gC[block, row, m] = gB_m, gC_m
                    per_dt = _LN2
                    if token >= 0 and elapsed.size:
                        per_dt = _ZERO
                        for c in range(width):
                            gelapsed[row, start + c] = gtime[c] * _LN2
                    elif gaps.size:
                        per_dt *= gaps[i, j, part * STEPS + t]
                    for c in range(width):
                        gtime[c] = slope[t, c] * (u_t[t, c] * B_dot[c] + per_dt * gtime[c])
                        gbias[i, j, start + c] += gtime[c]
                        gD[i, j, start + c] += gy_t[c] * u_t[t, c]
                    if token >= 0:
                        gu_row = _unsigned(first_gu_row + token)
                        for c in range(width):
                            gdelta[row, start + c] = gtime[c]
                            gu[gu_row, start + c] += dt[t, c] * B_dot[c] + D[j, start + c] * gy_t[c]


def saved_states(u: Tensor, b: int, k: int, length: int, d: int, n: int) -> Tensor:
    """Memory for the states that the forward pass keeps for the backward pass."""
    return u.new_empty(b, k, -(-length // STEPS), n, d, dtype=torch.float32)


def num_parts(delta: Tensor) -> tuple[int, int]:
    """Parts that the gradients of B and C come in, and those of A, D and delta_bias."""
    d = delta.shape[3]
    return -(-d // _channels(d)), delta.shape[0]


def selective_scan_forward(
    u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes,
    delta_softplus, outputs, complete, save_states,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """y (b, outputs, 1, l, d), the last state (b, k, d, n), and the kept states, if any."""
    call = _Call(u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, delta_softplus)
    y, last_state, states = call.forward(outputs, save_states)
    y = add_up_routes(y, outputs).unsqueeze(2)
    return y.to(u.dtype), last_state, states if save_states else u.new_empty(0)


def selective_scan_backward(
    grad_y, grad_last_state, u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, states,
    delta_softplus, complete,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of (u, delta, A, B, C, D, delta_bias, elapsed); see `num_parts`."""
    call = _Call(u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, delta_softplus)
    if not states.numel():
        _, _, states = call.forward(outputs=1, save_states=True)
    gu, gdelta, gA, gB, gC, gD, gbias, gelapsed = call.backward(grad_y, grad_last_state, states)
    return (
        add_up_routes(gu, u.shape[1]).to(u.dtype), gdelta.to(delta.dtype), gA, gB, gC,
        None if D is None else gD, None if delta_bias is None else gbias,
        None if elapsed is None else gelapsed.to(elapsed.dtype),
    )  # fmt: skip


def _channels(d: int) -> int:
    """Of a task: all, or an even block."""
    blocks = -(-d // CHANNELS)
    even = -(-d // blocks)
    return d if blocks == 1 else -(-even // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE


class _Call:
    """One call's inputs in the form of the loops, and how they are cut into tasks.

    Tensors of tokens are rows; A is in powers of 2, (k, n, d); D and bias are zeros if missing,
    elapsed and gaps without rows; routes are (1 or b, k, s), int32. There is a task to each image,
    block of channels and group of routes: one group, or, of a single large image, each route.
    """

    def __init__(self, u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, delta_softplus):
        if u.device.type != "cpu" or u.dtype == torch.float64:
            raise ValueError(
                "u: implementation='numba' takes float32, bfloat16 or float16 on a CPU, got "
                f"{u.dtype} on {u.device}"
            )
        self.b, self.k, self.l, self.d = delta.shape
        self.n = A.shape[1]
        self.u_routes = u.shape[1]
        self.elements = delta.numel() * self.n
        self.channels = _channels(self.d)
        self.groups = self.k if self.b == 1 and self.elements >= 2 * THREAD_ELEMENTS else 1
        if D is None or delta_bias is None:
            zeros = self.new_zeros(self.k, self.d)
        if routes is None:
            routes = torch.arange(self.l, device="cpu").expand(self.k, self.l)
        self.inputs = (
            _rows(u), _rows(delta), A.float() * LOG2E, _rows(B), _rows(C),
            zeros if D is None else D, zeros if delta_bias is None else delta_bias,
            self.new_zeros(0, self.d) if elapsed is None else _rows(elapsed),
            self.new_zeros(0, 0, 0) if gaps is None else gaps,
            routes.reshape(-1, self.k, routes.shape[-1]).int(), delta_softplus,
        )  # fmt: skip
        self.length = routes.shape[-1]

    def new_zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float32, device="cpu")

    def forward(self, outputs: int, save_states: bool) -> tuple[Tensor, Tensor, Tensor]:
        """y (b, outputs or k, l, d), the last state, and the kept states, if any."""
        b, k, l, d, n = self.b, self.k, self.l, self.d, self.n
        y = self.new_zeros(b, max(outputs, self.groups), l, d)
        last_state = y.new_empty(b, k, d, n)
        states = saved_states(y, b, k, self.length if save_states else 0, d, n)
        self.run(_forward, *self.inputs, _rows(y), last_state, states)
        return y, last_state, states

    def backward(self, grad_y, grad_last_state, states) -> tuple[Tensor, ...]:
        """That of u (b, u_routes or k, l, d), those of others as `num_parts` says."""
        b, k, l, d, n = self.b, self.k, self.l, self.d, self.n
        if grad_last_state is None:
            grad_last_state = self.new_zeros(b, k, d, n)
        gu = self.new_zeros(b, max(self.u_routes, self.groups), l, d)
        gdelta, gA = self.new_zeros(b, k, l, d), self.new_zeros(b, k, n, d)
        gB, gC = (self.new_zeros(-(-d // self.channels), b * k * l, n) for _ in range(2))
        gD, gbias = self.new_zeros(b, k, d), self.new_zeros(b, k, d)
        has_elapsed = self.inputs[7].shape[0] > 0
        gelapsed = self.new_zeros(b, k, l if has_elapsed else 0, d)
        self.run(
            _backward, _rows(grad_y), grad_last_state, *self.inputs, states,
            _rows(gu), _rows(gdelta), gA, gB, gC, gD, gbias, _rows(gelapsed),
        )  # fmt: skip
        gB, gC = (x.unflatten(1, (b, k, l)) for x in (gB, gC))
        return gu, gdelta, gA, gB, gC, gD, gbias, gelapsed

    def run(self, loops: Callable, *args) -> None:
        """Run all tasks, on as many of PyTorch's number of threads as they are worth."""
        tasks = self.b * self.groups * -(-self.d // self.channels)
        threads = min(torch.get_num_threads(), tasks, max(1, self.elements // THREAD_ELEMENTS))
        shares = min(tasks, SHARES * threads if threads > 1 else 1)
        bounds = [tasks * i // shares for i in range(shares + 1)] if shares else []
        pending = collections.deque(itertools.pairwise(bounds))
        arrays = [_array(x) if isinstance(x, Tensor) else x for x in args]

        def work() -> None:
            while True:
                try:
                    first, last = pending.popleft()
                except IndexError:
                    return
                loops(first, last, self.channels, self.groups, self.l, *arrays)

        others = [_threads().submit(work) for _ in range(threads - 1)]
        work()
        for other in others:
            other.result()


def _rows(x: Tensor) -> Tensor:
    """Tokens (..., d) as (rows, d)."""
    return x.flatten(0, -2)


def _array(x: Tensor) -> np.ndarray:
    """Dense, float32 unless int32; it shares the memory of a tensor that is so already."""
    x = x.detach()
    if x.dtype not in (torch.float32, torch.int32):
        x = x.float()
    return x.contiguous().numpy()


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """PyTorch's own threads cannot be given a function."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="selective_scan")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_threads.cache_clear)
