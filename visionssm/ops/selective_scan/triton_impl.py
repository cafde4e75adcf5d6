"""Selective scan in Triton: forward, backward, routes read inside the kernels.

One program owns a block of channels of one (batch, route) pair and walks a segment of the route in
tiles, gathering token rows by the route. A tile is (warps, steps, channels): each warp takes a run
of consecutive steps and its threads lie along the channels, so a thread has all steps of its
channels in registers and scans them by serial multiply-adds, without exchange between threads;
then the warps' totals are scanned (`_scan_steps`). The alignment hint in `_channel_offsets` is what
makes the compiler choose that layout. The next tile's rows are loaded before this one is computed.

    forward, for each state index n, over the steps t of a tile:
        a_t = exp(dt_t A_n),  x_t = dt_t u_t B_tn,  h_t = a_t h_(t-1) + x_t,  y_t += C_tn h_t

    backward, steps in reverse, with w_t = C_tn gy_t and r_t = a_t g_t (what step t-1 receives):
        r_t = a_t (r_(t+1) + w_t),  g_t = w_t + r_(t+1)
        gC_tn = sum_d gy_t h_t      gB_tn = sum_d g_t dt_t u_t
        gu_t += dt_t B_tn g_t       gdt_t += u_t B_tn g_t + A_n r_t h_(t-1)
        gA_n += dt_t r_t h_(t-1)    gdelta_t = gdt_t sigmoid(delta_t + bias)

Both scans also yield the value one step earlier (h_(t-1), r_(t+1)): an affine map is carried
together with the map without its last step, see `_compose`.

When batch x routes x channels cannot fill the device, the length is split into segments: a first
pass computes each segment's end from a zero state and its total step size, `_carry_kernel` carries
the ends across segments (h_start' = exp(A sum dt) h_start + end), the main pass starts from them.
The backward pass does the same with r from the other end.

Sums over channel blocks, batch and segments go through partial buffers and a reduction in a fixed
order: no atomics, the same bits every run. All arithmetic is float32.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_SAVED_STATE_SIZE = 4  # above it, states cost more memory than a second pass costs time
PROGRAMS_PER_SM = 4  # with fewer programs than this the length is split ...
SPLIT_PROGRAMS_PER_SM = 16  # ... into enough segments to reach this
MIN_SEGMENT = 128  # ... of no fewer steps than this
MAX_INT32_OFFSET = 2**31 - 1  # elements a token index may step over before it needs 64 bits

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _compose(a1, x1, p1, e1, a2, x2, p2, e2):
    """Compose h -> a h + x of two runs of steps; (p, e) is the same map without its last step.

    A single step has (p, e) = (1, -0): with constants the compiler drops their arithmetic, and
    adding -0 changes no value.
    """
    return a2 * a1, a2 * x1 + x2, p2 * a1, p2 * x1 + e2


@triton.jit
def _scan_steps(a, x, start, W: tl.constexpr, T: tl.constexpr, REVERSE: tl.constexpr):
    """h_t = a_t h_(t-1) + x_t over the W x T steps of a tile, a and x (W, T, channels).

    Each of the W warps scans its T rows from zero, the warps' totals are scanned across warps, and
    every warp corrects its rows for the state it starts from. REVERSE takes the warps, not the
    rows, from the last to the first.

    Returns:
        all h_t, all h_(t-1), and the state after the last step (channels).
    """
    one = tl.full(x.shape, 1.0, tl.float32)
    none = tl.full(x.shape, -0.0, tl.float32)
    decay, h, decay_prev, h_prev = tl.associative_scan((a, x, one, none), 1, _compose)
    last = (tl.arange(0, T) == T - 1)[None, :, None]
    total_decay = tl.sum(tl.where(last, decay, 0.0), 1)  # (W, channels)
    total = tl.sum(tl.where(last, h, 0.0), 1)
    one = tl.full(total.shape, 1.0, tl.float32)
    none = tl.full(total.shape, -0.0, tl.float32)
    total_decay, total, decay_before, before = tl.associative_scan(
        (total_decay, total, one, none), 0, _compose, reverse=REVERSE
    )
    before += decay_before * start[None, :]
    last_warp = (tl.arange(0, W) == (0 if REVERSE else W - 1))[:, None]
    end = tl.sum(tl.where(last_warp, total_decay * start[None, :] + total, 0.0), 0)
    h += decay * before[:, None, :]
    h_prev += decay_prev * before[:, None, :]
    return h, h_prev, end


@triton.jit
def _flip_steps(x):
    """Turn each warp's steps round, (W, T, channels).

    They are one thread's registers, so this moves no data; scanning backwards would.
    """
    return tl.permute(tl.flip(tl.permute(x, (0, 2, 1)), 2), (0, 2, 1))


@triton.jit
def _channel_offsets(i_d, BD: tl.constexpr):
    """Channels of the program. Claiming no more alignment than a thread's share keeps it there."""
    return tl.multiple_of(i_d * BD + tl.arange(0, BD), (BD + 31) // 32)


@triton.jit
def _softplus(x):
    """max(x, 0) + log(1 + e) with e = exp(-|x|), and its derivative sigmoid(x).

    log(1 + e) / e on [0, 1] is a polynomial, minimax in relative error (2e-7 in float32 for every
    x): no logarithm, no special cases.
    """
    e = tl.exp2(-tl.abs(x) * LOG2E)
    p = 0.005232695490121841 * e - 0.02950524352490902
    p = p * e + 0.07822595536708832
    p = p * e - 0.13663245737552643
    p = p * e + 0.19106006622314453
    p = p * e - 0.2484298199415207
    p = p * e + 0.3331909775733948
    p = p * e - 0.4999949336051941
    p = p * e + 0.9999999403953552
    return tl.maximum(x, 0.0) + e * p, tl.where(x >= 0.0, 1.0, e) / (1.0 + e)


@triton.jit
def _tile_steps(W: tl.constexpr, T: tl.constexpr):
    """Step of each row of a tile, (W, T): consecutive within a warp."""
    return tl.arange(0, W)[:, None] * T + tl.arange(0, T)[None, :]


@triton.jit
def _load_tile(
    p_routes, p_delta, p_u, p_gy, stride_dl, stride_ul, stride_gl, i_s, end, l, o_d, m_d,
    HAS_ROUTES: tl.constexpr, COMPLETE: tl.constexpr, WIDE: tl.constexpr,
    W: tl.constexpr, T: tl.constexpr, U: tl.constexpr, GY: tl.constexpr,
):  # fmt: skip
    """Tokens of the tile at step i_s, their validity, and their rows of delta, u and gy."""
    o_s = i_s + _tile_steps(W, T)
    m_token = o_s < end
    token = o_s
    if HAS_ROUTES:
        token = tl.load(p_routes + o_s, mask=m_token, other=-1)
        if not COMPLETE:
            m_token = (token >= 0) & (token < l)
    token = token.to(tl.int64 if WIDE else tl.int32)
    mask = m_token[:, :, None] & m_d[None, None, :]
    rows = token[:, :, None]
    cols = o_d[None, None, :]
    delta = tl.load(p_delta + (rows * stride_dl + cols), mask=mask, other=0.0)
    u = delta
    gy = delta
    if U:
        u = tl.load(p_u + (rows * stride_ul + cols), mask=mask, other=0.0)
    if GY:
        gy = tl.load(p_gy + (rows * stride_gl + cols), mask=mask, other=0.0)
    return token, m_token, delta, u, gy


@triton.jit
def _step_sizes(delta, bias, i_s, end, SOFTPLUS: tl.constexpr, W: tl.constexpr, T: tl.constexpr):
    """Step size, zero where the step does not exist, and its derivative by delta."""
    dt = delta.to(tl.float32) + bias[None, None, :]
    slope = tl.full(dt.shape, 1.0, tl.float32)
    if SOFTPLUS:
        dt, slope = _softplus(dt)
    exists = (i_s + _tile_steps(W, T) < end)[:, :, None]
    return tl.where(exists, dt, 0.0), tl.where(exists, slope, 0.0)


# Neither alignment nor masks depend on these: one kernel serves all their values.
_SIZES = ["k", "l"]


@triton.jit(do_not_specialize=_SIZES)
def _forward_kernel(
    p_u, p_delta, p_A, p_B, p_C, p_D, p_bias, p_routes, p_y, p_carry, p_states, p_sum_dt,
    stride_ub, stride_uk, stride_ul, stride_db, stride_dk, stride_dl,
    stride_Bb, stride_Bk, stride_Bl, stride_Bn, stride_rb,
    k, l, d, length, segment,
    N: tl.constexpr, BD: tl.constexpr, W: tl.constexpr, T: tl.constexpr,
    HAS_ROUTES: tl.constexpr, COMPLETE: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, DENSE: tl.constexpr, WIDE: tl.constexpr,
    STORE_Y: tl.constexpr, STORE_STATES: tl.constexpr, STORE_SUM_DT: tl.constexpr,
):  # fmt: skip
    """Scan one segment from the state in p_carry, leaving the segment's last state there."""
    num_d = tl.cdiv(d, BD)
    i_d = tl.program_id(0) % num_d
    i_bk = (tl.program_id(0) // num_d).to(tl.int64)
    i_b, i_k = i_bk // k, i_bk % k
    i_seg, num_seg = tl.program_id(1), tl.num_programs(1)
    begin = i_seg * segment
    end = tl.minimum(begin + segment, length)
    TILE: tl.constexpr = W * T
    if DENSE:  # rows of u and delta are adjacent, as y's: one offset serves all three
        stride_ul, stride_dl = d, d

    p_u += i_b * stride_ub + i_k * stride_uk
    p_delta += i_b * stride_db + i_k * stride_dk
    p_B += i_b * stride_Bb + i_k * stride_Bk
    p_C += i_b * stride_Bb + i_k * stride_Bk
    p_routes += i_b * stride_rb + i_k * length
    p_y += i_bk * l * d
    p_carry += (i_bk * num_seg + i_seg) * N * d
    p_states += (i_bk * tl.cdiv(length, TILE) + begin // TILE) * N * d

    o_d = _channel_offsets(i_d, BD)
    m_d = o_d < d
    bias = tl.zeros([BD], tl.float32)
    if HAS_BIAS:
        bias = tl.load(p_bias + i_k * d + o_d, mask=m_d, other=0.0).to(tl.float32)
    if HAS_D:
        skip = tl.load(p_D + i_k * d + o_d, mask=m_d, other=0.0).to(tl.float32)
    p_A += (i_k * d + o_d) * N
    sum_dt = tl.zeros([W, BD], tl.float32)
    if N == 1:  # the state and the decay rate stay in registers
        a2_1 = tl.load(p_A, mask=m_d, other=0.0).to(tl.float32) * LOG2E
        state_1 = tl.load(p_carry + o_d, mask=m_d, other=0.0)

    token, m_token, delta, u, no_gy = _load_tile(
        p_routes, p_delta, p_u, p_u, stride_dl, stride_ul, 0, begin, end, l, o_d, m_d,
        HAS_ROUTES, COMPLETE, WIDE, W, T, True, False,
    )  # fmt: skip
    for i_s in range(begin, end, TILE):
        token_next, m_token_next, delta_next, u_next, no_gy = _load_tile(
            p_routes, p_delta, p_u, p_u, stride_dl, stride_ul, 0, i_s + TILE, end, l, o_d, m_d,
            HAS_ROUTES, COMPLETE, WIDE, W, T, True, False,
        )  # fmt: skip
        u = u.to(tl.float32)
        dt, slope = _step_sizes(delta, bias, i_s, end, SOFTPLUS, W, T)
        du = dt * u
        y = tl.zeros([W, T, BD], tl.float32)
        if HAS_D:
            y = skip[None, None, :] * u
        if STORE_SUM_DT:
            sum_dt += tl.sum(dt, 1)
        for n in range(N):
            o_B = token * stride_Bl + n * stride_Bn
            Bn = tl.load(p_B + o_B, mask=m_token, other=0.0).to(tl.float32)
            if N == 1:
                a2, state = a2_1, state_1
            else:
                a2 = tl.load(p_A + n, mask=m_d, other=0.0).to(tl.float32) * LOG2E
                state = tl.load(p_carry + n * d + o_d, mask=m_d, other=0.0)
            if STORE_STATES:
                tl.store(p_states + n * d + o_d, state, mask=m_d)
            a = tl.exp2(dt * a2[None, None, :])
            h, h_prev, state = _scan_steps(a, du * Bn[:, :, None], state, W, T, False)
            if N == 1:
                state_1 = state
            else:
                tl.store(p_carry + n * d + o_d, state, mask=m_d)
            if STORE_Y:
                Cn = tl.load(p_C + o_B, mask=m_token, other=0.0).to(tl.float32)
                y += h * Cn[:, :, None]
        if N > 1:
            tl.debug_barrier()  # the next tile reads the states this one wrote
        if STORE_Y:
            mask = m_token[:, :, None] & m_d[None, None, :]
            tl.store(p_y + (token[:, :, None] * d + o_d[None, None, :]), y, mask=mask)
        p_states += N * d
        token, m_token, delta, u = token_next, m_token_next, delta_next, u_next

    if N == 1:
        tl.store(p_carry + o_d, state_1, mask=m_d)
    if STORE_SUM_DT:
        tl.store(p_sum_dt + (i_bk * num_seg + i_seg) * d + o_d, tl.sum(sum_dt, 0), mask=m_d)


@triton.jit(do_not_specialize=["k", "num_seg"])
def _carry_kernel(
    p_carry, p_sum_dt, p_A, p_first, k, d, num_seg,
    N: tl.constexpr, BD: tl.constexpr, REVERSE: tl.constexpr, HAS_FIRST: tl.constexpr,
):  # fmt: skip
    """Turn segment ends (from zero) into segment starts, in place, one state index a program."""
    num_d = tl.cdiv(d, BD)
    i_d = tl.program_id(0) % num_d
    i_bk = (tl.program_id(0) // num_d).to(tl.int64)
    n = tl.program_id(1)
    o_d = i_d * BD + tl.arange(0, BD)
    m_d = o_d < d
    a2 = tl.load(p_A + ((i_bk % k) * d + o_d) * N + n, mask=m_d, other=0.0).to(tl.float32) * LOG2E
    state = tl.zeros([BD], tl.float32)
    if HAS_FIRST:
        state = tl.load(p_first + (i_bk * N + n) * d + o_d, mask=m_d, other=0.0)
    for i in range(num_seg):
        i_seg = i_bk * num_seg + (num_seg - 1 - i if REVERSE else i)
        end = tl.load(p_carry + (i_seg * N + n) * d + o_d, mask=m_d, other=0.0)
        sum_dt = tl.load(p_sum_dt + i_seg * d + o_d, mask=m_d, other=0.0)
        tl.store(p_carry + (i_seg * N + n) * d + o_d, state, mask=m_d)
        state = tl.exp2(sum_dt * a2) * state + end


@triton.jit(do_not_specialize=_SIZES)
def _backward_kernel(
    p_gy, p_u, p_delta, p_A, p_B, p_C, p_D, p_bias, p_routes, p_states, p_carry,
    p_gu, p_gdelta, p_gA, p_gB, p_gC, p_gD, p_gbias,
    stride_gb, stride_gk, stride_gl, stride_ub, stride_uk, stride_ul,
    stride_db, stride_dk, stride_dl, stride_Bb, stride_Bk, stride_Bl, stride_Bn, stride_rb,
    stride_gB,
    k, l, d, length, segment,
    N: tl.constexpr, BD: tl.constexpr, W: tl.constexpr, T: tl.constexpr,
    HAS_ROUTES: tl.constexpr, COMPLETE: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, DENSE: tl.constexpr, WIDE: tl.constexpr, SUMMARY: tl.constexpr,
):  # fmt: skip
    """Walk one segment from its end; p_carry: r of the step after it (in), of its first (out).

    With SUMMARY only r is computed, for the carry across segments.
    """
    num_d = tl.cdiv(d, BD)
    i_d = tl.program_id(0) % num_d
    i_bk = (tl.program_id(0) // num_d).to(tl.int64)
    i_b, i_k = i_bk // k, i_bk % k
    i_seg, num_seg = tl.program_id(1), tl.num_programs(1)
    begin = i_seg * segment
    end = tl.minimum(begin + segment, length)
    TILE: tl.constexpr = W * T
    num_tiles = tl.cdiv(end - begin, TILE)
    if DENSE:
        stride_ul, stride_dl, stride_gl = d, d, d

    p_gy += i_b * stride_gb + i_k * stride_gk
    p_u += i_b * stride_ub + i_k * stride_uk
    p_delta += i_b * stride_db + i_k * stride_dk
    p_B += i_b * stride_Bb + i_k * stride_Bk
    p_C += i_b * stride_Bb + i_k * stride_Bk
    p_routes += i_b * stride_rb + i_k * length
    p_states += (i_bk * tl.cdiv(length, TILE) + begin // TILE + num_tiles - 1) * N * d
    p_carry += (i_bk * num_seg + i_seg) * N * d
    p_gA += (i_bk * num_seg + i_seg) * W * N * d
    p_gu += i_bk * l * d
    p_gdelta += i_bk * l * d
    p_gB += i_d * stride_gB + i_bk * l * N
    p_gC += i_d * stride_gB + i_bk * l * N

    o_d = _channel_offsets(i_d, BD)
    m_d = o_d < d
    bias = tl.zeros([BD], tl.float32)
    if HAS_BIAS:
        bias = tl.load(p_bias + i_k * d + o_d, mask=m_d, other=0.0).to(tl.float32)
    skip = tl.zeros([BD], tl.float32)
    if HAS_D:
        skip = tl.load(p_D + i_k * d + o_d, mask=m_d, other=0.0).to(tl.float32)
    p_A += (i_k * d + o_d) * N
    o_gA = tl.arange(0, W)[:, None] * (N * d) + o_d[None, :]  # every warp sums its own steps
    m_gA = (tl.arange(0, W) >= 0)[:, None] & m_d[None, :]
    gD = tl.zeros([W, BD], tl.float32)
    gbias = tl.zeros([W, BD], tl.float32)
    if N == 1:
        A_1 = tl.load(p_A, mask=m_d, other=0.0).to(tl.float32)
        r_1 = tl.load(p_carry + o_d, mask=m_d, other=0.0)
        gA_1 = tl.zeros([W, BD], tl.float32)

    for i in range(num_tiles):
        i_s = begin + (num_tiles - 1 - i) * TILE
        token, m_token, delta, u, gy = _load_tile(
            p_routes, p_delta, p_u, p_gy, stride_dl, stride_ul, stride_gl, i_s, end, l, o_d, m_d,
            HAS_ROUTES, COMPLETE, WIDE, W, T, not SUMMARY, True,
        )  # fmt: skip
        dt, slope = _step_sizes(delta, bias, i_s, end, SOFTPLUS, W, T)
        gy = gy.to(tl.float32)
        if not SUMMARY:
            u = u.to(tl.float32)
            du = dt * u
            gB_dot = tl.zeros([W, T, BD], tl.float32)  # <g, B>
            gdt = tl.zeros([W, T, BD], tl.float32)
        for n in range(N):
            if N == 1:
                A_n, r_in = A_1, r_1
            else:
                A_n = tl.load(p_A + n, mask=m_d, other=0.0).to(tl.float32)
                r_in = tl.load(p_carry + n * d + o_d, mask=m_d, other=0.0)
            o_B = token * stride_Bl + n * stride_Bn
            Cn = tl.load(p_C + o_B, mask=m_token, other=0.0).to(tl.float32)
            w = gy * Cn[:, :, None]
            a = tl.exp2(dt * (A_n * LOG2E)[None, None, :])
            r, r_next, r_out = _scan_steps(_flip_steps(a), _flip_steps(a * w), r_in, W, T, True)
            if N == 1:
                r_1 = r_out
            else:
                tl.store(p_carry + n * d + o_d, r_out, mask=m_d)
            if not SUMMARY:
                r, r_next = _flip_steps(r), _flip_steps(r_next)
                Bn = tl.load(p_B + o_B, mask=m_token, other=0.0).to(tl.float32)[:, :, None]
                h0 = tl.load(p_states + n * d + o_d, mask=m_d, other=0.0)
                h, h_prev, h_end = _scan_steps(a, du * Bn, h0, W, T, False)
                g = w + r_next
                tl.store(p_gC + (token * N + n), tl.sum(gy * h, 2), mask=m_token)
                tl.store(p_gB + (token * N + n), tl.sum(g * du, 2), mask=m_token)
                gB_dot += g * Bn
                ga = r * h_prev  # gradient of dt A_n
                gdt += ga * A_n[None, None, :]
                gA = tl.sum(ga * dt, 1)
                if N == 1:
                    gA_1 += gA
                else:
                    gA += tl.load(p_gA + n * d + o_gA, mask=m_gA, other=0.0)
                    tl.store(p_gA + n * d + o_gA, gA, mask=m_gA)
        p_states -= N * d
        if N > 1:
            tl.debug_barrier()  # the next tile reads the carries and sums this one wrote
        if not SUMMARY:
            gdt = (gdt + u * gB_dot) * slope
            gD += tl.sum(gy * u, 1)
            gbias += tl.sum(gdt, 1)
            mask = m_token[:, :, None] & m_d[None, None, :]
            offsets = token[:, :, None] * d + o_d[None, None, :]
            tl.store(p_gu + offsets, dt * gB_dot + skip[None, None, :] * gy, mask=mask)
            tl.store(p_gdelta + offsets, gdt, mask=mask)

    if N == 1:
        tl.store(p_carry + o_d, r_1, mask=m_d)
        if not SUMMARY:
            tl.store(p_gA + o_gA, gA_1, mask=m_gA)
    if not SUMMARY:
        o_sum = (i_bk * num_seg + i_seg) * d + o_d
        tl.store(p_gD + o_sum, tl.sum(gD, 0), mask=m_d)
        tl.store(p_gbias + o_sum, tl.sum(gbias, 0), mask=m_d)


class _Tile(NamedTuple):
    """Shape of a tile: warps x steps of each x channels. States are saved at tile starts."""

    warps: int
    steps: int
    channels: int

    @property
    def length(self) -> int:
        return self.warps * self.steps


def _tile(d: int, n: int) -> _Tile:
    """Tile by channels and state size.

    Two channels a thread share the work on a row, unless they leave threads idle. With n > 1 the
    totals of the warps are combined n times a tile, so there are fewer of them.
    """
    wide = d % 64 == 0
    if n == 1:
        tile = _Tile(4, 8, 64) if wide else _Tile(2, 16, 32)
    else:
        tile = _Tile(2, 8, 64 if wide or d > 128 else 32)
    if _interpreting():  # a lane costs time there; on a GPU a warp is a warp
        tile = tile._replace(channels=min(tile.channels, triton.next_power_of_2(d)))
    return tile


def saved_states_shape(b: int, k: int, length: int, d: int, n: int) -> tuple[int, ...]:
    """States the forward keeps for the backward: at every tile's start, or none (recomputed)."""
    if n > MAX_SAVED_STATE_SIZE:
        return (0,)
    return (b, k, triton.cdiv(length, _tile(d, n).length), n, d)


def selective_scan_forward(
    u, delta, A, B, C, D, delta_bias, routes, delta_softplus, reduce_sum, complete, save_states
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state (b, k, d, n), and the saved states (empty unless asked for)."""
    call = _Call(u, delta, A, B, C, D, delta_bias, routes, delta_softplus, complete)
    b, k, l, d, n = call.sizes
    partial = reduce_sum and k > 1
    y = call.new_tokens(d, torch.float32 if partial else u.dtype)
    states = u.new_empty(
        saved_states_shape(b, k, call.length, d, n) if save_states else (0,), dtype=torch.float32
    )
    with call.device():
        carry = call.segment_starts()
        call.run_forward(carry, y=y, states=states if states.numel() else None)
    last_state = carry[:, :, -1].transpose(2, 3).contiguous()
    if reduce_sum:
        y = y.sum(1).to(u.dtype) if partial else y[:, 0]
    return y, last_state, states


def selective_scan_backward(
    grad_y,
    grad_last_state,
    u,
    delta,
    A,
    B,
    C,
    D,
    delta_bias,
    routes,
    states,
    delta_softplus,
    complete,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of (u, delta, A, B, C, D, delta_bias)."""
    call = _Call(u, delta, A, B, C, D, delta_bias, routes, delta_softplus, complete)
    b, k, l, d, n = call.sizes
    with call.device():
        if not states.numel():
            num_tiles = triton.cdiv(call.length, call.tile.length)
            states = u.new_empty(b, k, num_tiles, n, d, dtype=torch.float32)
            call.run_forward(call.segment_starts(), states=states)
        return call.run_backward(_unit_stride(grad_y), grad_last_state, states)


def check_device(u: Tensor) -> None:
    """Raise ValueError where the kernels cannot run: off CUDA, or in float64."""
    if u.dtype == torch.float64:
        raise ValueError("u: the Triton implementation computes in float32, got float64")
    if not u.is_cuda and not _interpreting():
        raise ValueError(
            f"u: the Triton implementation needs a CUDA device, got {u.device} "
            "(TRITON_INTERPRET=1 runs it on CPU)"
        )


class _Call:
    """One call's tensors, sizes and launch parameters, shared by all its kernels."""

    def __init__(self, u, delta, A, B, C, D, delta_bias, routes, delta_softplus, complete):
        check_device(u)
        b, k, l, d = delta.shape
        self.sizes = b, k, l, d, A.shape[2]
        self.u, self.delta = _unit_stride(u), _unit_stride(delta)
        # B and C are slices of one projection as a rule, and then share their strides.
        same = B.stride() == C.stride()
        self.B, self.C = (B, C) if same else (B.contiguous(), C.contiguous())
        self.A = A.contiguous()
        self.D, self.delta_bias = (None if t is None else t.contiguous() for t in (D, delta_bias))
        self.routes = None if routes is None else routes.contiguous()
        self.length = l if routes is None else routes.shape[-1]
        self.zero_rows = routes is not None and not complete
        self.tile = _tile(d, A.shape[2])
        self.num_blocks = triton.cdiv(d, self.tile.channels)
        self.num_segments, self.segment = _split_length(
            self.length, self.tile.length, b * k * self.num_blocks, u.device
        )
        self.flags = dict(
            N=self.sizes[4], BD=self.tile.channels, W=self.tile.warps, T=self.tile.steps,
            HAS_ROUTES=routes is not None, COMPLETE=complete, HAS_D=D is not None,
            HAS_BIAS=delta_bias is not None, SOFTPLUS=delta_softplus, num_warps=self.tile.warps,
        )  # fmt: skip

    def row_flags(self, *tensors: Tensor) -> dict[str, bool]:
        """How the kernel may step over rows of these tensors, the outputs' being d apart."""
        _, _, l, d, _ = self.sizes
        strides = [x.stride(2) for x in tensors]
        widest = max(*strides, self.B.stride(2), d)
        return {"DENSE": all(s == d for s in strides), "WIDE": l * widest > MAX_INT32_OFFSET}

    def device(self):
        """Launch on the tensors' device, whichever is current."""
        return torch.cuda.device(self.u.device) if self.u.is_cuda else contextlib.nullcontext()

    @property
    def grid(self) -> tuple[int, int]:
        b, k, *_ = self.sizes
        return b * k * self.num_blocks, self.num_segments

    def new_tokens(self, width: int, dtype: torch.dtype) -> Tensor:
        """(b, k, l, width); zeros where some tokens may never be visited."""
        b, k, l, *_ = self.sizes
        new = self.u.new_zeros if self.zero_rows else self.u.new_empty
        return new(b, k, l, width, dtype=dtype)

    def new_carry(self) -> Tensor:
        b, k, _, d, n = self.sizes
        return self.u.new_zeros(b, k, self.num_segments, n, d, dtype=torch.float32)

    def run_forward(self, carry, y=None, states=None, sum_dt=None) -> None:
        """Scan all segments from `carry`, which receives their last states."""
        b, k, l, d, _ = self.sizes
        _forward_kernel[self.grid](
            self.u, self.delta, self.A, self.B, self.C, *self._optional_inputs(),
            _or(y, carry), carry, _or(states, carry), _or(sum_dt, carry),
            *_token_strides(self.u), *_token_strides(self.delta), *_strides(self.B),
            self._route_stride(),
            k, l, d, self.length, self.segment,
            STORE_Y=y is not None, STORE_STATES=states is not None,
            STORE_SUM_DT=sum_dt is not None, **self.row_flags(self.u, self.delta), **self.flags,
        )  # fmt: skip

    def segment_starts(self) -> Tensor:
        """State at the start of every segment, (b, k, segments, n, d)."""
        carry = self.new_carry()
        if self.num_segments > 1:
            sum_dt = carry.new_empty(*carry.shape[:3], carry.shape[4])
            self.run_forward(carry, sum_dt=sum_dt)
            self._carry(carry, sum_dt)
        return carry

    def run_backward(self, grad_y, grad_last_state, states):
        b, k, l, d, n = self.sizes
        f32 = torch.float32
        first = None
        if grad_last_state is not None:
            first = grad_last_state.transpose(2, 3).contiguous()
        carry = self.new_carry()
        if self.num_segments > 1:
            self._launch_backward(grad_y, states, carry, SUMMARY=True)
            self._carry(carry, self._segment_step_sizes(), first, reverse=True)
        elif first is not None:
            carry[:, :, 0] = first

        shared_u = self.u.shape[1] != k
        gu = self.new_tokens(d, f32 if shared_u else self.u.dtype)
        gdelta = self.new_tokens(d, self.delta.dtype)
        new_rows = self.u.new_zeros if self.zero_rows else self.u.new_empty
        gB, gC = (new_rows(self.num_blocks, b, k, l, n, dtype=f32) for _ in range(2))
        gA = carry.new_zeros(*carry.shape[:3], self.tile.warps, n, d)
        gD, gbias = (carry.new_empty(*carry.shape[:3], d) for _ in range(2))
        self._launch_backward(
            grad_y, states, carry, gu, gdelta, gA, gB, gC, gD, gbias, SUMMARY=False
        )
        if shared_u:
            gu = gu.sum(1, keepdim=True).to(self.u.dtype)
        gA = gA.sum((0, 2, 3)).transpose(1, 2)
        return (
            gu, gdelta, gA.to(self.A.dtype).contiguous(), gB.sum(0).to(self.B.dtype),
            gC.sum(0).to(self.C.dtype),
            None if self.D is None else gD.sum((0, 2)).to(self.D.dtype),
            None if self.delta_bias is None else gbias.sum((0, 2)).to(self.delta_bias.dtype),
        )  # fmt: skip

    def _launch_backward(
        self, grad_y, states, carry,
        gu=None, gdelta=None, gA=None, gB=None, gC=None, gD=None, gbias=None, *, SUMMARY,
    ) -> None:  # fmt: skip
        b, k, l, d, n = self.sizes
        outputs = (_or(t, carry) for t in (gu, gdelta, gA, gB, gC, gD, gbias))
        _backward_kernel[self.grid](
            grad_y, self.u, self.delta, self.A, self.B, self.C, *self._optional_inputs(),
            states, carry, *outputs,
            *_token_strides(grad_y), *_token_strides(self.u), *_token_strides(self.delta),
            *_strides(self.B), self._route_stride(), b * k * l * n,
            k, l, d, self.length, self.segment, SUMMARY=SUMMARY,
            **self.row_flags(self.u, self.delta, grad_y), **self.flags,
        )  # fmt: skip

    def _segment_step_sizes(self) -> Tensor:
        b, k, _, d, _ = self.sizes
        sum_dt = self.u.new_empty(b, k, self.num_segments, d, dtype=torch.float32)
        self.run_forward(self.new_carry(), sum_dt=sum_dt)
        return sum_dt

    def _carry(self, carry, sum_dt, first=None, reverse=False) -> None:
        b, k, _, d, n = self.sizes
        _carry_kernel[(b * k * self.num_blocks, n)](
            carry, sum_dt, self.A, _or(first, carry), k, d, self.num_segments,
            N=n, BD=self.tile.channels, REVERSE=reverse, HAS_FIRST=first is not None, num_warps=1,
        )  # fmt: skip

    def _optional_inputs(self):
        return (_or(t, self.u) for t in (self.D, self.delta_bias, self.routes))

    def _route_stride(self) -> int:
        return 0 if self.routes is None or self.routes.dim() == 2 else self.routes.stride(0)


def _split_length(length: int, tile: int, programs: int, device: torch.device) -> tuple[int, int]:
    """Number of segments and steps of each (a multiple of the tile) that fill the device."""
    if device.type != "cuda":
        return 1, length
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    if programs >= PROGRAMS_PER_SM * multiprocessors:
        return 1, length
    wanted = triton.cdiv(SPLIT_PROGRAMS_PER_SM * multiprocessors, programs)
    segment = max(MIN_SEGMENT, triton.cdiv(length, wanted))
    segment = triton.cdiv(segment, tile) * tile
    return triton.cdiv(length, segment), segment


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _unit_stride(x: Tensor) -> Tensor:
    """Channels must be adjacent for coalesced rows; other strides are free."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _token_strides(x: Tensor) -> tuple[int, int, int]:
    """Strides of b, k (0 where one k serves all routes) and l."""
    return x.stride(0), 0 if x.shape[1] == 1 else x.stride(1), x.stride(2)


def _strides(x: Tensor) -> tuple[int, int, int, int]:
    return x.stride(0), x.stride(1), x.stride(2), x.stride(3)


def _or(tensor: Tensor | None, placeholder: Tensor) -> Tensor:
    """Kernels take a pointer even where a flag says it is not read."""
    return placeholder if tensor is None else tensor
