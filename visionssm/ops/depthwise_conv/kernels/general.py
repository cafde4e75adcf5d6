"""Any taps: tiles of tokens, loaded once a tap."""

from __future__ import annotations

import triton
import triton.language as tl

from .tile import SIZES, channel_offsets, finish, load_bias


@triton.jit
def _is_inside(
    m_token, row, column, height, width, dr, dc, KH: tl.constexpr, KW: tl.constexpr
):  # fmt: skip
    """Which tokens' image has a token at this distance."""
    if KH > 1:
        m_token = m_token & (row + dr >= 0) & (row + dr < height)
    if KW > 1:
        m_token = m_token & (column + dc >= 0) & (column + dc < width)
    return m_token


@triton.jit(do_not_specialize=SIZES)
def conv_kernel(
    p_x, p_taps, p_bias, p_gy, p_y, num_tokens, height, width, d, stride_x, stride_gy,
    KH: tl.constexpr, KW: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, R: tl.constexpr,
    MIRRORED: tl.constexpr, ADJOINT: tl.constexpr,
    HAS_BIAS: tl.constexpr, SILU: tl.constexpr, GRADIENT: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr, SHARE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One repetition of the output; ADJOINT: the sum of R, read with the taps turned round."""
    o_d, m_d, i_tokens = channel_offsets(d, BD, SHARE)
    token = i_tokens * BT + tl.arange(0, BT)
    m_token = token < num_tokens
    row, column = (token // width) % height, token % width
    if WIDE:
        token = token.to(tl.int64)
    if not ADJOINT:
        p_taps += tl.program_id(1) * d
        p_bias += tl.program_id(1) * d
        p_gy += tl.program_id(1) * d
        p_y += tl.program_id(1) * d

    y = tl.zeros([BT, BD], tl.float32) + load_bias(p_bias, o_d, m_d, HAS_BIAS)[None, :]
    for i in tl.static_range(R if ADJOINT else 1):
        r = i if ADJOINT else tl.program_id(1)
        top = TOP + r % 2 * (KH - 1 - 2 * TOP) if MIRRORED else TOP
        left = LEFT + r % 2 * (KW - 1 - 2 * LEFT) if MIRRORED else LEFT
        for a in tl.static_range(KH):
            for c in tl.static_range(KW):
                dr, dc = (top - a, left - c) if ADJOINT else (a - top, c - left)
                mask = _is_inside(m_token, row, column, height, width, dr, dc, KH, KW)[:, None]
                p = p_x + ((token + (dr * width + dc)) * stride_x + i * d)[:, None] + o_d[None, :]
                x = tl.load(p, mask=mask & m_d[None, :], other=0.0).to(tl.float32)
                w = tl.load(p_taps + ((a * KW + c) * R + i) * d + o_d, mask=m_d, other=0.0)
                y += w.to(tl.float32)[None, :] * x
    mask = m_token[:, None] & m_d[None, :]
    y = finish(y, p_gy, (token * stride_gy)[:, None] + o_d[None, :], mask, SILU, GRADIENT)
    stride_y = d if ADJOINT else d * R
    tl.store(p_y + (token * stride_y)[:, None] + o_d[None, :], y, mask=mask)


@triton.jit(do_not_specialize=SIZES)
def taps_grad_kernel(
    p_gy, p_x, p_partial, num_tokens, height, width, d, stride_gy, stride_x,
    KH: tl.constexpr, KW: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, R: tl.constexpr,
    MIRRORED: tl.constexpr, HAS_BIAS: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr, SHARE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Sums over a tile of tokens of gy x, for every tap of one repetition."""
    o_d, m_d, i_tokens = channel_offsets(d, BD, SHARE)
    r = tl.program_id(1)
    token = i_tokens * BT + tl.arange(0, BT)
    m_token = token < num_tokens
    row, column = (token // width) % height, token % width
    if WIDE:
        token = token.to(tl.int64)
    p = p_gy + (token * stride_gy + r * d)[:, None] + o_d[None, :]
    gy = tl.load(p, mask=m_token[:, None] & m_d[None, :], other=0.0).to(tl.float32)
    p_partial += (i_tokens.to(tl.int64) * (KH * KW + HAS_BIAS) * R + r) * d + o_d
    if HAS_BIAS:
        tl.store(p_partial + KH * KW * R * d, tl.sum(gy, 0), mask=m_d)
    top = TOP + r % 2 * (KH - 1 - 2 * TOP) if MIRRORED else TOP
    left = LEFT + r % 2 * (KW - 1 - 2 * LEFT) if MIRRORED else LEFT
    for a in tl.static_range(KH):
        for c in tl.static_range(KW):
            dr, dc = a - top, c - left
            mask = _is_inside(m_token, row, column, height, width, dr, dc, KH, KW)[:, None]
            p = p_x + ((token + (dr * width + dc)) * stride_x)[:, None] + o_d[None, :]
            x = tl.load(p, mask=mask & m_d[None, :], other=0.0).to(tl.float32)
            tl.store(p_partial + (a * KW + c) * R * d, tl.sum(gy * x, 0), mask=m_d)
