"""HSM-SSD's state in Triton: softmax over tokens and weighted sum in one pass over the tokens.

Forward: one program owns all n states of a block of channels of one image and walks the tokens in
tiles. The softmax is computed as it goes: with m the largest score so far, s the sum of exp(score -
m) and h the sum of exp(score - m) B x, a tile that raises m to m' scales s and h by exp(m - m').

    forward, at the end:   h / s,   log_total = m + log s

Backward: one program owns a tile of tokens of one image. With w = exp(dt - log_total), known at
once, and g the gradient of h,

    G = x g^T                  gB  = w G
    gx = (w B) g               gdt = w (B G - <h, g>)

so no sum runs over tokens: no partial buffers, no atomics, the same bits every run. All arithmetic
is float32; a product is two or three TF32 products, which keep its precision on tensor cores.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import cdiv, check_device, device_of, next_power_of_2, unit_stride

MAX_TOKENS = 32  # of a tile
MAX_CHANNELS = 128  # of a tile
FORWARD_STATES = 8192  # states x channels that a program keeps in registers
BACKWARD_STATES = 2048  # ... which beside the state holds its gradient and three products
WIDE_STATE = 64  # above it a program needs more registers than four warps have
MIN_DOT = 16  # tensor cores take no less a side

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _dot(a, b):
    """a b to float32's precision, a float32 and b as it was loaded.

    TF32 holds bfloat16 and float16 exactly, so that beside them only a is split: into its leading
    11 bits and the rest.
    """
    if b.dtype == tl.float32:
        return tl.dot(a, b, input_precision="tf32x3")
    b = b.to(tl.float32)
    high = (a.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    return tl.dot(high, b, tl.dot(a - high, b, input_precision="tf32"), input_precision="tf32")


@triton.jit
def _hsm_ssd_forward_kernel(
    p_x, p_dt, p_B, p_state, p_log_total,
    stride_xb, stride_xl, stride_tb, stride_tl, stride_Bb, stride_Bl, l, d, n,
    BL: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Grid (b, blocks of d). Scores are (n, tokens), so that they multiply x as they are."""
    i_b = tl.program_id(0).to(tl.int64)
    o_n = tl.arange(0, BN)
    o_d = tl.program_id(1) * BD + tl.arange(0, BD)
    m_n, m_d = o_n < n, o_d < d
    highest = tl.full((BN,), float("-inf"), tl.float32)
    total = tl.zeros((BN,), tl.float32)
    state = tl.zeros((BN, BD), tl.float32)
    for i_l in range(0, l, BL):
        o_l = (i_l + tl.arange(0, BL)).to(tl.int64)
        m_l = o_l < l
        mask = m_n[:, None] & m_l[None, :]
        p_rows = p_dt + i_b * stride_tb + o_l[None, :] * stride_tl
        dt = tl.load(p_rows + o_n[:, None], mask=mask, other=0.0).to(tl.float32)
        dt = tl.where(m_l[None, :], dt * LOG2E, float("-inf"))
        p_rows = p_B + i_b * stride_Bb + o_l[None, :] * stride_Bl
        B = tl.load(p_rows + o_n[:, None], mask=mask, other=0.0).to(tl.float32)
        p_rows = p_x + i_b * stride_xb + o_l[:, None] * stride_xl
        x = tl.load(p_rows + o_d[None, :], mask=m_l[:, None] & m_d[None, :], other=0.0)
        above = tl.maximum(highest, tl.max(dt, 1))
        rescale = tl.exp2(highest - above)
        w = tl.exp2(dt - above[:, None])
        total = total * rescale + tl.sum(w, 1)
        state = state * rescale[:, None] + _dot(w * B, x)
        highest = above
    state = state / total[:, None]
    p_rows = p_state + (i_b * n + o_n[:, None]) * d
    tl.store(p_rows + o_d[None, :], state, mask=m_n[:, None] & m_d[None, :])
    if tl.program_id(1) == 0:
        log_total = (highest + tl.log2(total)) * LN2
        tl.store(p_log_total + i_b * n + o_n, log_total, mask=m_n)


@triton.jit
def _hsm_ssd_backward_kernel(
    p_g, p_x, p_dt, p_B, p_state, p_log_total, p_gx, p_gdt, p_gB,
    stride_xb, stride_xl, stride_tb, stride_tl, stride_Bb, stride_Bl, l, d, n,
    BL: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Grid (b, tiles of l)."""
    i_b = tl.program_id(0).to(tl.int64)
    o_n = tl.arange(0, BN)
    o_l = (tl.program_id(1) * BL + tl.arange(0, BL)).to(tl.int64)
    m_n, m_l = o_n < n, o_l < l
    mask = m_l[:, None] & m_n[None, :]
    log_total = tl.load(p_log_total + i_b * n + o_n, mask=m_n, other=0.0)
    p_rows = p_dt + i_b * stride_tb + o_l[:, None] * stride_tl
    dt = tl.load(p_rows + o_n[None, :], mask=mask, other=0.0).to(tl.float32)
    p_rows = p_B + i_b * stride_Bb + o_l[:, None] * stride_Bl
    B = tl.load(p_rows + o_n[None, :], mask=mask, other=0.0).to(tl.float32)
    w = tl.exp2((dt - log_total[None, :]) * LOG2E)
    wB = w * B
    G = tl.zeros((BL, BN), tl.float32)
    hg = tl.zeros((BN,), tl.float32)
    for i_d in range(0, d, BD):
        o_d = i_d + tl.arange(0, BD)
        m_d = o_d < d
        m_row, m_state = m_l[:, None] & m_d[None, :], m_n[:, None] & m_d[None, :]
        p_rows = p_x + i_b * stride_xb + o_l[:, None] * stride_xl
        x = tl.load(p_rows + o_d[None, :], mask=m_row, other=0.0).to(tl.float32)
        o_state = (i_b * n + o_n[:, None]) * d + o_d[None, :]
        g = tl.load(p_g + o_state, mask=m_state, other=0.0)
        state = tl.load(p_state + o_state, mask=m_state, other=0.0).to(tl.float32)
        G += _dot(x, tl.trans(g))
        hg += tl.sum(state * g.to(tl.float32), 1)
        tl.store(p_gx + (i_b * l + o_l[:, None]) * d + o_d[None, :], _dot(wB, g), mask=m_row)
    o_score = (i_b * l + o_l[:, None]) * n + o_n[None, :]
    tl.store(p_gB + o_score, w * G, mask=mask)
    tl.store(p_gdt + o_score, w * (B * G - hg[None, :]), mask=mask)


def hsm_ssd_forward(x: Tensor, dt: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """The state (b, n, d) in x's dtype, and the log of the softmax's denominator (b, n)."""
    check_device("x", x)
    x, dt, B = (unit_stride(t) for t in (x, dt, B))
    (b, l, d), n = x.shape, dt.shape[2]
    state = x.new_empty(b, n, d)
    log_total = x.new_empty(b, n, dtype=torch.float32)
    tile = _tile(l, d, n, FORWARD_STATES)
    with device_of(x):
        _hsm_ssd_forward_kernel[(b, cdiv(d, tile["BD"]))](
            x, dt, B, state, log_total, *_row_strides(x, dt, B), l, d, n, **tile
        )
    return state, log_total


def hsm_ssd_backward(
    grad_state: Tensor, x: Tensor, dt: Tensor, B: Tensor, state: Tensor, log_total: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (x, dt, B), each in its tensor's dtype."""
    check_device("x", x)
    x, dt, B = (unit_stride(t) for t in (x, dt, B))
    (b, l, d), n = x.shape, dt.shape[2]
    gx, gdt, gB = (t.new_empty(t.shape) for t in (x, dt, B))
    tile = _tile(l, d, n, BACKWARD_STATES)
    with device_of(x):
        _hsm_ssd_backward_kernel[(b, cdiv(l, tile["BL"]))](
            grad_state.contiguous(), x, dt, B, state, log_total, gx, gdt, gB,
            *_row_strides(x, dt, B), l, d, n, **tile,
        )  # fmt: skip
    return gx, gdt, gB


def _tile(l: int, d: int, n: int, max_states: int) -> dict[str, int]:
    """Tokens, channels and states of a tile, states x channels being at most `max_states`."""
    states = max(MIN_DOT, next_power_of_2(n))
    channels = min(MAX_CHANNELS, max_states // states, next_power_of_2(d))
    tokens = min(MAX_TOKENS, next_power_of_2(l))
    return {
        "BL": max(MIN_DOT, tokens),
        "BD": max(MIN_DOT, channels),
        "BN": states,
        "num_warps": 8 if states > WIDE_STATE else 4,
    }


def _row_strides(*tensors: Tensor) -> tuple[int, ...]:
    """Strides of b and l of each."""
    return tuple(stride for t in tensors for stride in t.stride()[:2])
