"""4 x 1 taps: walks down sequences."""

from __future__ import annotations

import triton
import triton.language as tl

from .tile import SIZES, finish, load_bias, store_tap, walk_offsets


@triton.jit
def _four_taps(p_taps, d, o_d, m_d, FLIP: tl.constexpr):
    """Taps of a column for a block of channels, from the first row read to the last."""
    first: tl.constexpr = 3 if FLIP else 0
    step: tl.constexpr = -1 if FLIP else 1
    w_0 = tl.load(p_taps + first * d + o_d, mask=m_d, other=0.0).to(tl.float32)
    w_1 = tl.load(p_taps + (first + step) * d + o_d, mask=m_d, other=0.0).to(tl.float32)
    w_2 = tl.load(p_taps + (first + 2 * step) * d + o_d, mask=m_d, other=0.0).to(tl.float32)
    w_3 = tl.load(p_taps + (first + 3 * step) * d + o_d, mask=m_d, other=0.0).to(tl.float32)
    return w_0[None, :], w_1[None, :], w_2[None, :], w_3[None, :]


@triton.jit
def _load_at(p_x, token, row, height, stride_x, o_d, mask):
    """The tile of a row, `token` being those of row 0; 0 outside of the image."""
    p = p_x + ((token + row) * stride_x)[:, None] + o_d[None, :]
    return tl.load(p, mask=mask & (row >= 0) & (row < height), other=0.0)


@triton.jit(do_not_specialize=SIZES)
def conv4x1_kernel(
    p_x, p_taps, p_bias, p_gy, p_y, num_columns, height, d, stride_x, stride_gy, run,
    TOP: tl.constexpr, R: tl.constexpr, MIRRORED: tl.constexpr, ADJOINT: tl.constexpr,
    HAS_BIAS: tl.constexpr, SILU: tl.constexpr, GRADIENT: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, SHARE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """A run of rows of one repetition of sequences (w = 1), or of the sum that the adjoint is."""
    o_d, m_d, i_columns, index, mask, begin, end = walk_offsets(
        num_columns, height, d, run, BC, BD, SHARE
    )
    r = tl.program_id(2)
    token = index.to(tl.int64 if WIDE else tl.int32) * height
    top = TOP + r % 2 * (3 - 2 * TOP) if MIRRORED else TOP
    if ADJOINT:
        top = 3 - top
    else:
        p_taps += r * d
        p_bias += r * d
        p_gy += r * d
        p_y += r * d
    stride_y = d if ADJOINT else R * d

    w_0, w_1, w_2, w_3 = _four_taps(p_taps, R * d, o_d, m_d, ADJOINT)
    bias = tl.zeros([BC, BD], tl.float32) + load_bias(p_bias, o_d, m_d, HAS_BIAS)[None, :]
    row = begin - top
    x_0 = _load_at(p_x, token, row, height, stride_x, o_d, mask).to(tl.float32)
    x_1 = _load_at(p_x, token, row + 1, height, stride_x, o_d, mask).to(tl.float32)
    x_2 = _load_at(p_x, token, row + 2, height, stride_x, o_d, mask).to(tl.float32)
    x_next = _load_at(p_x, token, row + 3, height, stride_x, o_d, mask)
    if ADJOINT and R == 2:
        v_0, v_1, v_2, v_3 = _four_taps(p_taps + d, R * d, o_d, m_d, ADJOINT)
        p_z = p_x + d
        from_x = top - (TOP if MIRRORED else 3 - TOP)  # rows
        row += from_x
        z_0 = _load_at(p_z, token, row, height, stride_x, o_d, mask).to(tl.float32)
        z_1 = _load_at(p_z, token, row + 1, height, stride_x, o_d, mask).to(tl.float32)
        z_2 = _load_at(p_z, token, row + 2, height, stride_x, o_d, mask).to(tl.float32)
        z_next = _load_at(p_z, token, row + 3, height, stride_x, o_d, mask)
    for i in range(begin, end):
        row = i + 4 - top  # loaded a row early
        x_3 = x_next.to(tl.float32)
        x_next = _load_at(p_x, token, row, height, stride_x, o_d, mask)
        y = bias + w_0 * x_0
        y += w_1 * x_1
        y += w_2 * x_2
        y += w_3 * x_3
        x_0, x_1, x_2 = x_1, x_2, x_3
        if ADJOINT and R == 2:
            z_3 = z_next.to(tl.float32)
            z_next = _load_at(p_z, token, row + from_x, height, stride_x, o_d, mask)
            y += v_0 * z_0
            y += v_1 * z_1
            y += v_2 * z_2
            y += v_3 * z_3
            z_0, z_1, z_2 = z_1, z_2, z_3
        o_gy = ((token + i) * stride_gy)[:, None] + o_d[None, :]
        y = finish(y, p_gy, o_gy, mask, SILU, GRADIENT)
        tl.store(p_y + ((token + i) * stride_y)[:, None] + o_d[None, :], y, mask=mask)


@triton.jit(do_not_specialize=SIZES)
def taps_grad4x1_kernel(
    p_gy, p_x, p_partial, num_columns, height, d, stride_gy, stride_x, run,
    TOP: tl.constexpr, R: tl.constexpr, MIRRORED: tl.constexpr, HAS_BIAS: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, SHARE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Sums over a run of rows of gy with the four rows of x that each of one repetition reads."""
    o_d, m_d, i_columns, index, mask, begin, end = walk_offsets(
        num_columns, height, d, run, BC, BD, SHARE
    )
    r = tl.program_id(2)
    token = index.to(tl.int64 if WIDE else tl.int32) * height
    top = TOP + r % 2 * (3 - 2 * TOP) if MIRRORED else TOP
    p_gy += r * d

    zero = tl.zeros([BC, BD], tl.float32)
    tap_0, tap_1, tap_2, tap_3, total = zero, zero, zero, zero, zero
    row = begin - top
    x_0 = _load_at(p_x, token, row, height, stride_x, o_d, mask).to(tl.float32)
    x_1 = _load_at(p_x, token, row + 1, height, stride_x, o_d, mask).to(tl.float32)
    x_2 = _load_at(p_x, token, row + 2, height, stride_x, o_d, mask).to(tl.float32)
    x_next = _load_at(p_x, token, row + 3, height, stride_x, o_d, mask)
    gy_next = _load_at(p_gy, token, begin, height, stride_gy, o_d, mask)
    for i in range(begin, end):  # both loaded a row early
        x_3, gy = x_next.to(tl.float32), gy_next.to(tl.float32)
        x_next = _load_at(p_x, token, i + 4 - top, height, stride_x, o_d, mask)
        gy_next = _load_at(p_gy, token, i + 1, height, stride_gy, o_d, mask)
        tap_0 += gy * x_0
        tap_1 += gy * x_1
        tap_2 += gy * x_2
        tap_3 += gy * x_3
        if HAS_BIAS:
            total += gy
        x_0, x_1, x_2 = x_1, x_2, x_3

    i_partial = (i_columns * tl.num_programs(1) + tl.program_id(1)).to(tl.int64)
    p_partial += i_partial * (4 + HAS_BIAS) * R * d + r * d
    store_tap(p_partial, 0, tap_0, R * d, o_d, m_d)
    store_tap(p_partial, 1, tap_1, R * d, o_d, m_d)
    store_tap(p_partial, 2, tap_2, R * d, o_d, m_d)
    store_tap(p_partial, 3, tap_3, R * d, o_d, m_d)
    if HAS_BIAS:
        store_tap(p_partial, 4, total, R * d, o_d, m_d)
