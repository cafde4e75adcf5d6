"""SSD in Triton: states pass along the chunks, and all else is parallel over them.

With s_t the sum of dt A from the start of a chunk to its step t, M_tj = exp(s_t - s_j) for j <= t,
S the state at its start and G the gradient of the one at its end, a chunk of T steps gives

    y_t   = sum_j M_tj <C_t, B_j> dt_j x_j + exp(s_t) S C_t + D x_t
    S_end = exp(s_T) S + sum_j exp(s_T - s_j) dt_j x_j B_j^T
    G_0   = exp(s_T) G + sum_t exp(s_t) gy_t C_t^T             the gradient of S

    K_tj = <gy_t, x_j>      P = M K dt, summed over the heads of a group
    gx_j = dt_j (sum_t M_tj <C_t, B_j> gy_t + exp(s_T - s_j) G B_j) + D gy_j
    gC   = P B   + sum over heads of exp(s_t) S^T gy_t
    gB   = P^T C + sum over heads of dt_j exp(s_T - s_j) G^T x_j

Kernels: step sizes and s; states (forward, and backward for G), whose programs own a block of the
state and walk the chunks; outputs, and gradients, whose programs own a chunk and some heads of one
group, so that B, C and <C_t, B_j> serve all of these; the gradients of step sizes. Heads of more
than BP channels are taken for several that share dt. Nothing but the inputs is kept for the
backward pass, which computes s and the states again.

Decays and sums are float32. What is multiplied, states at chunk starts too, has x's dtype. Sums
over heads, chunks and images go through parts added up in a fixed order: no atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import cdiv, check_device, device_of, interpreting, next_power_of_2, unit_stride
from ..selective_scan.kernels.tile import softplus

MAX_STATES = 256  # of a head, all in one tile
CHUNK = 64  # as many steps as tensor cores of Hopper take rows
SMALL_CHUNK = 32  # backward, in float32 or of many states, where tiles would not fit into registers
WIDE_STATE = 128  # states of a head, above which they are many
OUTPUT_HEADS, GRADIENT_HEADS = 4, 8  # of a program, at most
MIN_DOT = 16  # tensor cores take no less a side
STEP_TILE = 32  # heads of a program that computes step sizes

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
INTERPRETING = tl.constexpr(interpreting())


@triton.jit
def _dot(a, b):
    """a b in b's dtype, summed in float32. The interpreter takes bfloat16 for integers."""
    a = a.to(b.dtype)
    if INTERPRETING:
        return tl.dot(a.to(tl.float32), b.to(tl.float32))
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _rows(p_tensor, stride_b, stride_l, stride_h, i_b, o_l, i_h):
    """Pointers to the first channel of tokens o_l (steps, 1)."""
    return p_tensor + i_b * stride_b + o_l.to(tl.int64)[:, None] * stride_l + i_h * stride_h


@triton.jit
def _step_sizes(
    p_dt, p_bias, stride_b, stride_l, stride_h, i_b, o_l, o_h, l, h, least, greatest,
    SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_LIMIT: tl.constexpr,
):  # fmt: skip
    """Step sizes (steps, heads), zero beyond the last token, and their derivatives by dt."""
    mask = (o_l < l)[:, None] & (o_h < h)[None, :]
    p_rows = _rows(p_dt, stride_b, stride_l, 0, i_b, o_l, 0)
    step = tl.load(p_rows + o_h[None, :] * stride_h, mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        step += tl.load(p_bias + o_h, mask=o_h < h, other=0.0).to(tl.float32)[None, :]
    slope = tl.full(step.shape, 1.0, tl.float32)
    if SOFTPLUS:
        step, slope = softplus(step * LOG2E, True)
        step *= LN2
    if HAS_LIMIT:
        slope = tl.where((step < least) | (step > greatest), 0.0, slope)
        step = tl.where(step < least, least, tl.where(step > greatest, greatest, step))
    return tl.where(mask, step, 0.0), tl.where(mask, slope, 0.0)


@triton.jit
def _ssd_decay_kernel(
    p_dt, p_bias, p_A, p_step, p_decay, stride_b, stride_l, stride_h, l, h, c, least, greatest,
    SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_LIMIT: tl.constexpr,
    T: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    """Grid (b c, blocks of heads). Step sizes and s / log(2), both (b, h, c T)."""
    i_b = (tl.program_id(0) // c).to(tl.int64)
    o_l = tl.program_id(0) % c * T + tl.arange(0, T)
    o_h = tl.program_id(1) * BH + tl.arange(0, BH)
    m_h = o_h < h
    step, _ = _step_sizes(
        p_dt, p_bias, stride_b, stride_l, stride_h, i_b, o_l, o_h, l, h, least, greatest,
        SOFTPLUS, HAS_BIAS, HAS_LIMIT,
    )  # fmt: skip
    A = tl.load(p_A + o_h, mask=m_h, other=0.0).to(tl.float32)
    decay = tl.cumsum(step * (A * LOG2E)[None, :], 0)
    o_step = (i_b * h + o_h[None, :]) * (c * T) + o_l[:, None]
    tl.store(p_step + o_step, step, mask=m_h[None, :])
    tl.store(p_decay + o_step, decay, mask=m_h[None, :])


@triton.jit
def _ssd_decay_gradient_kernel(
    p_dt, p_bias, p_A, p_gstep, p_gs, p_gdt, p_sums,
    stride_b, stride_l, stride_h, l, h, c, least, greatest, head_parts, stride_part, stride_sum,
    SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_LIMIT: tl.constexpr,
    T: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    """Grid (b c, blocks of heads). gdt (b, l, h), and parts (2, b c, h) of gA and of dt_bias's."""
    i_b = (tl.program_id(0) // c).to(tl.int64)
    o_l = tl.program_id(0) % c * T + tl.arange(0, T)
    o_h = tl.program_id(1) * BH + tl.arange(0, BH)
    m_h = o_h < h
    step, slope = _step_sizes(
        p_dt, p_bias, stride_b, stride_l, stride_h, i_b, o_l, o_h, l, h, least, greatest,
        SOFTPLUS, HAS_BIAS, HAS_LIMIT,
    )  # fmt: skip
    A = tl.load(p_A + o_h, mask=m_h, other=0.0).to(tl.float32)
    o_step = (i_b * h + o_h[None, :]) * (c * T) + o_l[:, None]
    gstep = tl.zeros((T, BH), tl.float32)
    gs = tl.zeros((T, BH), tl.float32)
    for i in range(head_parts):
        gstep += tl.load(p_gstep + i * stride_part + o_step, mask=m_h[None, :], other=0.0)
        gs += tl.load(p_gs + i * stride_part + o_step, mask=m_h[None, :], other=0.0)
    g_log_decay = tl.cumsum(gs, 0, reverse=True)  # of dt A, a term of every s from its step on
    gdt = (gstep + A[None, :] * g_log_decay) * slope
    mask = (o_l < l)[:, None] & m_h[None, :]
    tl.store(p_gdt + (i_b * l + o_l[:, None]) * h + o_h[None, :], gdt, mask=mask)
    p_sum = p_sums + tl.program_id(0).to(tl.int64) * h + o_h
    tl.store(p_sum, tl.sum(step * g_log_decay, 0), mask=m_h)
    tl.store(p_sum + stride_sum, tl.sum(gdt, 0), mask=m_h)


@triton.jit
def _ssd_states_kernel(
    p_x, p_B, p_step, p_decay, p_first, p_states, p_last,
    stride_xb, stride_xl, stride_xh, stride_Bb, stride_Bl, stride_Bg, l, h, q, p, n, c,
    REVERSE: tl.constexpr, HAS_FIRST: tl.constexpr,
    T: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Grid (b h, blocks of p, blocks of n). S of all chunks (b, c, h, p, n), and of what follows.

    In reverse G, gy standing for x and C for B.
    """
    i_b, i_h = (tl.program_id(0) // h).to(tl.int64), tl.program_id(0) % h
    o_t = tl.arange(0, T)
    o_p = tl.program_id(1) * BP + tl.arange(0, BP)
    o_n = tl.program_id(2) * BN + tl.arange(0, BN)
    m_p, m_n = o_p < p, o_n < n
    m_state = m_p[:, None] & m_n[None, :]
    o_state = o_p[:, None] * n + o_n[None, :]
    state = tl.zeros((BP, BN), tl.float32)
    if HAS_FIRST:
        p_of_first = p_first + (i_b * h + i_h) * p * n
        state = tl.load(p_of_first + o_state, mask=m_state, other=0.0).to(tl.float32)
    for i in range(c):
        i_c = i
        if REVERSE:
            i_c = c - 1 - i
        p_head = p_states + ((i_b * c + i_c) * h + i_h) * p * n
        tl.store(p_head + o_state, state, mask=m_state)
        o_l = i_c * T + o_t
        m_l = o_l < l
        o_head = (i_b * h + i_h) * (c * T) + i_c * T
        decay = tl.load(p_decay + o_head + o_t)
        total = tl.load(p_decay + o_head + T - 1)
        if REVERSE:
            weight = tl.exp2(decay)
        else:
            weight = tl.load(p_step + o_head + o_t) * tl.exp2(total - decay)
        p_rows = _rows(p_x, stride_xb, stride_xl, stride_xh, i_b, o_l, i_h)
        x = tl.load(p_rows + o_p[None, :], mask=m_l[:, None] & m_p[None, :], other=0.0)
        p_rows = _rows(p_B, stride_Bb, stride_Bl, stride_Bg, i_b, o_l, i_h // q)
        B = tl.load(p_rows + o_n[None, :], mask=m_l[:, None] & m_n[None, :], other=0.0)
        B = (B.to(x.dtype).to(tl.float32) * weight[:, None]).to(x.dtype)
        state = state * tl.exp2(total) + _dot(tl.trans(x), B)
    tl.store(p_last + (i_b * h + i_h) * p * n + o_state, state, mask=m_state)


@triton.jit
def _ssd_output_kernel(
    p_x, p_B, p_C, p_step, p_decay, p_D, p_states, p_y,
    stride_xb, stride_xl, stride_xh, stride_Bb, stride_Bl, stride_Bg,
    stride_Cb, stride_Cl, stride_Cg, stride_Dh, stride_Dp, l, h, q, p, n, c, head_parts, blocks,
    HEADS: tl.constexpr, HAS_D: tl.constexpr,
    T: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Grid (b c, g blocks), a block being HEADS parts of heads."""
    i_b, i_c = (tl.program_id(0) // c).to(tl.int64), tl.program_id(0) % c
    i_g, first = tl.program_id(1) // blocks, tl.program_id(1) % blocks * HEADS
    o_t, o_n = tl.arange(0, T), tl.arange(0, BN)
    o_l = i_c * T + o_t
    m_l, m_n = o_l < l, o_n < n
    m_token = m_l[:, None] & m_n[None, :]
    dtype = p_x.dtype.element_ty
    p_rows = _rows(p_B, stride_Bb, stride_Bl, stride_Bg, i_b, o_l, i_g)
    B = tl.load(p_rows + o_n[None, :], mask=m_token, other=0.0).to(dtype)
    p_rows = _rows(p_C, stride_Cb, stride_Cl, stride_Cg, i_b, o_l, i_g)
    C = tl.load(p_rows + o_n[None, :], mask=m_token, other=0.0).to(dtype)
    scores = _dot(C, tl.trans(B))
    for i in range(first, tl.minimum(first + HEADS, q * head_parts)):
        i_h = i_g * q + i // head_parts
        o_p = i % head_parts * BP + tl.arange(0, BP)
        m_p = o_p < p
        m_x = m_l[:, None] & m_p[None, :]
        o_head = (i_b * h + i_h) * (c * T) + i_c * T + o_t
        step, decay = tl.load(p_step + o_head), tl.load(p_decay + o_head)
        p_part = _rows(p_x, stride_xb, stride_xl, stride_xh, i_b, o_l, i_h)
        x = tl.load(p_part + o_p[None, :], mask=m_x, other=0.0)
        p_part = p_states + (((i_b * c + i_c) * h + i_h) * p + o_p[:, None]) * n
        S = tl.load(p_part + o_n[None, :], mask=m_p[:, None] & m_n[None, :], other=0.0)
        past = o_t[:, None] >= o_t[None, :]
        between = tl.where(past, decay[:, None] - decay[None, :], float("-inf"))
        y = _dot(C, tl.trans(S)) * tl.exp2(decay)[:, None]
        y += _dot(scores * tl.exp2(between) * step[None, :], x)
        if HAS_D:
            D = tl.load(p_D + i_h * stride_Dh + o_p * stride_Dp, mask=m_p, other=0.0)
            y += D.to(tl.float32)[None, :] * x.to(tl.float32)
        p_part = p_y + ((i_b * l + o_l[:, None]) * h + i_h) * p
        tl.store(p_part + o_p[None, :], y, mask=m_x)


@triton.jit
def _ssd_gradient_kernel(
    p_gy, p_x, p_B, p_C, p_step, p_decay, p_D, p_starts, p_ends, p_gx, p_gBC, p_gD, p_gstep, p_gs,
    stride_gb, stride_gl, stride_gh, stride_xb, stride_xl, stride_xh,
    stride_Bb, stride_Bl, stride_Bg, stride_Cb, stride_Cl, stride_Cg, stride_Dh, stride_Dp,
    l, h, q, p, n, c, head_parts, blocks, stride_part, stride_gC,
    HEADS: tl.constexpr, HAS_D: tl.constexpr,
    T: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Grid (b c, g blocks), a block being HEADS parts of heads.

    Gives gx; parts (blocks, b, l, g, n) of gB and of gC; parts (b, c, h, p) of D's gradient; and by
    parts of heads (b, h, c T) the gradients of dt, decays apart, and of s.
    """
    i_b, i_c = (tl.program_id(0) // c).to(tl.int64), tl.program_id(0) % c
    i_g, i_k = tl.program_id(1) // blocks, tl.program_id(1) % blocks
    o_t, o_n = tl.arange(0, T), tl.arange(0, BN)
    o_l = i_c * T + o_t
    m_l, m_n = o_l < l, o_n < n
    m_token = m_l[:, None] & m_n[None, :]
    dtype = p_x.dtype.element_ty
    p_rows = _rows(p_B, stride_Bb, stride_Bl, stride_Bg, i_b, o_l, i_g)
    B = tl.load(p_rows + o_n[None, :], mask=m_token, other=0.0).to(dtype)
    p_rows = _rows(p_C, stride_Cb, stride_Cl, stride_Cg, i_b, o_l, i_g)
    C = tl.load(p_rows + o_n[None, :], mask=m_token, other=0.0).to(dtype)
    scores = _dot(C, tl.trans(B))
    P = tl.zeros((T, T), tl.float32)
    gB = tl.zeros((T, BN), tl.float32)
    gC = tl.zeros((T, BN), tl.float32)
    for i in range(i_k * HEADS, tl.minimum((i_k + 1) * HEADS, q * head_parts)):
        i_h = i_g * q + i // head_parts
        o_p = i % head_parts * BP + tl.arange(0, BP)
        m_p = o_p < p
        m_x, m_state = m_l[:, None] & m_p[None, :], m_p[:, None] & m_n[None, :]
        p_part = _rows(p_x, stride_xb, stride_xl, stride_xh, i_b, o_l, i_h)
        x = tl.load(p_part + o_p[None, :], mask=m_x, other=0.0)
        p_part = _rows(p_gy, stride_gb, stride_gl, stride_gh, i_b, o_l, i_h)
        gy = tl.load(p_part + o_p[None, :], mask=m_x, other=0.0)
        o_state = (((i_b * c + i_c) * h + i_h) * p + o_p[:, None]) * n + o_n[None, :]
        o_head = (i_b * h + i_h) * (c * T) + i_c * T
        step, decay = tl.load(p_step + o_head + o_t), tl.load(p_decay + o_head + o_t)
        total = tl.load(p_decay + o_head + T - 1)
        from_start, to_end = tl.exp2(decay), tl.exp2(total - decay)

        past = o_t[:, None] >= o_t[None, :]
        between = tl.where(past, decay[:, None] - decay[None, :], float("-inf"))
        M = tl.exp2(between)
        MK = M * _dot(gy, tl.trans(x))
        P += MK * step[None, :]
        W = MK * scores
        gstep = tl.sum(W, 0)
        # A step's own term does not decay: left out, it need not cancel in gs.
        W = tl.where(o_t[:, None] > o_t[None, :], W * step[None, :], 0.0)
        gs = tl.sum(W, 1) - tl.sum(W, 0)

        G = tl.load(p_ends + o_state, mask=m_state, other=0.0)
        gB += _dot(x.to(tl.float32) * (step * to_end)[:, None], G)
        gx = _dot(B, tl.trans(G)) * to_end[:, None]
        into_end = tl.sum(gx * x.to(tl.float32), 1)
        gx += _dot(tl.trans(scores * M), gy)
        gx *= step[:, None]
        if HAS_D:
            D = tl.load(p_D + i_h * stride_Dh + o_p * stride_Dp, mask=m_p, other=0.0)
            gx += D.to(tl.float32)[None, :] * gy.to(tl.float32)
            gD = tl.sum(gy.to(tl.float32) * x.to(tl.float32), 0)
            tl.store(p_gD + ((i_b * c + i_c) * h + i_h) * p + o_p, gD, mask=m_p)
        p_part = p_gx + ((i_b * l + o_l[:, None]) * h + i_h) * p
        tl.store(p_part + o_p[None, :], gx, mask=m_x)

        S = tl.load(p_starts + o_state, mask=m_state, other=0.0)
        gy_start = gy.to(tl.float32) * from_start[:, None]
        gC += _dot(gy_start, S)
        gs += tl.sum(gy_start * _dot(C, tl.trans(S)), 1) - step * into_end
        # Loaded anew, as it would take registers until here.
        G = tl.load(p_ends + o_state, mask=m_state, other=0.0)
        kept = tl.sum(tl.sum(S.to(tl.float32) * G.to(tl.float32), 1), 0) * tl.exp2(total)
        gs += tl.where(o_t == T - 1, tl.sum(step * into_end, 0) + kept, 0.0)
        o_part = i % head_parts * stride_part + o_head + o_t
        tl.store(p_gstep + o_part, gstep + into_end)
        tl.store(p_gs + o_part, gs)
    gB += _dot(tl.trans(P), C)
    gC += _dot(P, B)
    parts = tl.num_programs(1) // blocks  # groups
    batch = tl.num_programs(0) // c
    o_token = ((i_k * batch + i_b) * l + o_l[:, None]) * parts + i_g
    tl.store(p_gBC + o_token * n + o_n[None, :], gB, mask=m_token)
    tl.store(p_gBC + stride_gC + o_token * n + o_n[None, :], gC, mask=m_token)


class _Scan:
    """Sizes and launches of both passes; arguments as of `ssd_forward`, and steps of a chunk."""

    def __init__(self, x, dt, A, B, C, D, dt_bias, dt_softplus, dt_limit, chunk):
        check_device("x", x)
        self.x, self.B, self.C = (unit_stride(t) for t in (x, B, C))
        self.dt, self.A = dt, A.contiguous()
        self.dt_bias = None if dt_bias is None else dt_bias.contiguous()
        (b, l, h, p), (g, n) = x.shape, B.shape[2:]
        self.D = None if D is None else D.view(h, -1).expand(h, p) if D.dim() == 1 else D
        self.sizes = b, l, h, p, g, n
        self.wide = n > WIDE_STATE or x.dtype == torch.float32
        chunk = SMALL_CHUNK if self.wide else chunk
        self.T = max(MIN_DOT, min(chunk, next_power_of_2(l)))
        self.BP = max(MIN_DOT, min(32 if self.wide else 64, next_power_of_2(p)))
        self.BN = max(MIN_DOT, next_power_of_2(n))
        self.c = cdiv(l, self.T)
        self.head_parts = cdiv(p, self.BP)
        BH = min(STEP_TILE, next_power_of_2(h))
        self.step_grid = (b * self.c, cdiv(h, BH))
        least, greatest = dt_limit or (0.0, 0.0)
        self.step_sizes = (*dt.stride(), l, h, self.c, float(least), float(greatest))
        self.step_flags = dict(
            SOFTPLUS=dt_softplus, HAS_BIAS=dt_bias is not None, HAS_LIMIT=dt_limit is not None,
            T=self.T, BH=BH,
        )  # fmt: skip

    def blocks(self, heads: int) -> int:
        """Programs that share the heads of a group."""
        _, _, h, _, g, _ = self.sizes
        return cdiv(h // g * self.head_parts, heads)

    def decays(self) -> tuple[Tensor, Tensor]:
        b, _, h, *_ = self.sizes
        step, decay = self.x.new_empty(2, b, h, self.c * self.T, dtype=torch.float32)
        _ssd_decay_kernel[self.step_grid](
            self.dt, _or(self.dt_bias, self.A), self.A, step, decay,
            *self.step_sizes, **self.step_flags,
        )  # fmt: skip
        return step, decay

    def states(self, x, B, step, decay, first, reverse=False) -> tuple[Tensor, Tensor]:
        """Of every chunk (b, c, h, p, n) in x's dtype; after the last (b, h, p, n), float32."""
        b, l, h, p, g, n = self.sizes
        states = x.new_empty(b, self.c, h, p, n)
        last = x.new_empty(b, h, p, n, dtype=torch.float32)
        BN = min(self.BN, 32)
        _ssd_states_kernel[(b * h, self.head_parts, cdiv(n, BN))](
            x, B, step, decay, last if first is None else first.contiguous(), states, last,
            *x.stride()[:3], *B.stride()[:3], l, h, h // g, p, n, self.c,
            REVERSE=reverse, HAS_FIRST=first is not None, T=self.T, BP=self.BP, BN=BN,
            num_warps=4, num_stages=3,
        )  # fmt: skip
        return states, last

    def token_sizes(self, heads: int) -> tuple[int, ...]:
        """Strides of B, C and D, sizes, and the number of blocks."""
        _, l, h, p, g, n = self.sizes
        D = (0, 0) if self.D is None else self.D.stride()
        strides = (*self.B.stride()[:3], *self.C.stride()[:3], *D)
        return (*strides, l, h, h // g, p, n, self.c, self.head_parts, self.blocks(heads))

    def tile(self, heads: int) -> dict:
        return dict(HEADS=heads, HAS_D=self.D is not None, T=self.T, BP=self.BP, BN=self.BN)


def ssd_forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    initial_states: Tensor | None,
    dt_softplus: bool,
    dt_limit: list[float] | None,
) -> tuple[Tensor, Tensor]:
    """y (b, l, h, p) in x's dtype, not gated, and the final states (b, h, p, n) in float32."""
    scan = _Scan(x, dt, A, B, C, D, dt_bias, dt_softplus, dt_limit, CHUNK)
    b, _, _, _, g, _ = scan.sizes
    y = x.new_empty(x.shape)
    with device_of(x):
        step, decay = scan.decays()
        states, final = scan.states(scan.x, scan.B, step, decay, initial_states)
        _ssd_output_kernel[(b * scan.c, g * scan.blocks(OUTPUT_HEADS))](
            scan.x, scan.B, scan.C, step, decay, _or(scan.D, step), states, y,
            *scan.x.stride()[:3], *scan.token_sizes(OUTPUT_HEADS), **scan.tile(OUTPUT_HEADS),
            num_warps=8 if scan.wide else 4, num_stages=2,
        )  # fmt: skip
    return y, final


def ssd_backward(
    grad_y: Tensor,
    grad_final: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    initial_states: Tensor | None,
    dt_softplus: bool,
    dt_limit: list[float] | None,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, dt, A, B, C, D, dt_bias, initial_states in their dtypes; None for None."""
    scan = _Scan(x, dt, A, B, C, D, dt_bias, dt_softplus, dt_limit, SMALL_CHUNK)
    b, l, h, p, g, n = scan.sizes
    grad_y = unit_stride(grad_y)
    f32 = torch.float32
    blocks = scan.blocks(GRADIENT_HEADS)
    gx, gdt = x.new_empty(x.shape), dt.new_empty(dt.shape)
    gBC = x.new_empty(2, blocks, b, l, g, n, dtype=f32)
    gD = x.new_empty((0,) if D is None else (b * scan.c, h, p), dtype=f32)
    gstep, gs = x.new_empty(2, scan.head_parts, b, h, scan.c * scan.T, dtype=f32)
    sums = x.new_empty(2, b * scan.c, h, dtype=f32)
    with device_of(x):
        step, decay = scan.decays()
        starts, _ = scan.states(scan.x, scan.B, step, decay, initial_states)
        ends, g_first = scan.states(grad_y, scan.C, step, decay, grad_final, reverse=True)
        _ssd_gradient_kernel[(b * scan.c, g * blocks)](
            grad_y, scan.x, scan.B, scan.C, step, decay, _or(scan.D, step), starts, ends,
            gx, gBC, gD, gstep, gs, *grad_y.stride()[:3], *scan.x.stride()[:3],
            *scan.token_sizes(GRADIENT_HEADS), gstep.stride(0), gBC.stride(0),
            **scan.tile(GRADIENT_HEADS), num_warps=8, num_stages=1,
        )  # fmt: skip
        _ssd_decay_gradient_kernel[scan.step_grid](
            scan.dt, _or(scan.dt_bias, scan.A), scan.A, gstep, gs, gdt, sums, *scan.step_sizes,
            scan.head_parts, gstep.stride(0), sums.stride(0), **scan.step_flags,
        )  # fmt: skip
    gB, gC = (parts.sum(0) for parts in gBC)
    gA, gbias = (parts.sum(0) for parts in sums)
    if D is not None:
        gD = gD.sum((0, 2) if D.dim() == 1 else 0).to(D.dtype)
    return (
        gx, gdt, gA.to(A.dtype), gB.to(B.dtype), gC.to(C.dtype), None if D is None else gD,
        None if dt_bias is None else gbias.to(dt_bias.dtype),
        None if initial_states is None else g_first.to(initial_states.dtype),
    )  # fmt: skip


def _or(tensor: Tensor | None, placeholder: Tensor) -> Tensor:
    """Kernels take a pointer even where a flag says it is not read."""
    return placeholder if tensor is None else tensor
