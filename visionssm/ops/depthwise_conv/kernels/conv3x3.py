"""3 x 3 taps in the middle: walks down the rows of maps."""

from __future__ import annotations

import triton
import triton.language as tl

from .tile import SIZES, finish, load_bias, store_tap, walk_offsets


@triton.jit
def _tap(p_taps, tap: tl.constexpr, d, o_d, m_d, FLIP: tl.constexpr):
    """Weight of a tap of nine for a block of channels, to multiply a tile with."""
    index: tl.constexpr = 8 - tap if FLIP else tap
    return tl.load(p_taps + index * d + o_d, mask=m_d, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _load_row(p, row, height, mask):
    """A tile of a row, 0 where the row or the column lies outside of the image."""
    return tl.load(p, mask=mask & (row >= 0) & (row < height), other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=SIZES)
def conv3x3_kernel(
    p_x, p_taps, p_bias, p_gy, p_y, num_columns, height, width, d, stride_x, stride_gy, run,
    FLIP: tl.constexpr, HAS_BIAS: tl.constexpr, SILU: tl.constexpr, GRADIENT: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, SHARE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """A run of rows of the output. FLIP turns the taps round, which makes it the adjoint."""
    o_d, m_d, i_columns, index, mask, begin, end = walk_offsets(
        num_columns, height, d, run, BC, BD, SHARE
    )
    column = index % width
    token = (index // width).to(tl.int64 if WIDE else tl.int32) * height * width + column
    token += (begin - 1) * width
    m_left = mask & (column > 0)[:, None]
    m_right = mask & (column < width - 1)[:, None]

    above_l = _tap(p_taps, 0, d, o_d, m_d, FLIP)
    above_c = _tap(p_taps, 1, d, o_d, m_d, FLIP)
    above_r = _tap(p_taps, 2, d, o_d, m_d, FLIP)
    on_l = _tap(p_taps, 3, d, o_d, m_d, FLIP)
    on_c = _tap(p_taps, 4, d, o_d, m_d, FLIP)
    on_r = _tap(p_taps, 5, d, o_d, m_d, FLIP)
    below_l = _tap(p_taps, 6, d, o_d, m_d, FLIP)
    below_c = _tap(p_taps, 7, d, o_d, m_d, FLIP)
    below_r = _tap(p_taps, 8, d, o_d, m_d, FLIP)

    bias = tl.zeros([BC, BD], tl.float32) + load_bias(p_bias, o_d, m_d, HAS_BIAS)[None, :]
    y, y_next = bias, bias  # of the row before this one, and of this one
    for row in range(begin - 1, end + 1):
        p = p_x + (token * stride_x)[:, None] + o_d[None, :]
        left = _load_row(p - stride_x, row, height, m_left)
        centre = _load_row(p, row, height, mask)
        right = _load_row(p + stride_x, row, height, m_right)
        y += below_l * left
        y += below_c * centre
        y += below_r * right
        if row > begin:
            o_gy = ((token - width) * stride_gy)[:, None] + o_d[None, :]
            result = finish(y, p_gy, o_gy, mask, SILU, GRADIENT)
            tl.store(p_y + ((token - width) * d)[:, None] + o_d[None, :], result, mask=mask)
        y = y_next + on_l * left
        y += on_c * centre
        y += on_r * right
        y_next = bias + above_l * left
        y_next += above_c * centre
        y_next += above_r * right
        token += width


@triton.jit(do_not_specialize=SIZES)
def taps_grad3x3_kernel(
    p_gy, p_x, p_partial, num_columns, height, width, d, stride_gy, stride_x, run,
    HAS_BIAS: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr, SHARE: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """Sums over a run of rows of x with the three rows of gy that each goes into."""
    o_d, m_d, i_columns, index, mask, begin, end = walk_offsets(
        num_columns, height, d, run, BC, BD, SHARE
    )
    column = index % width
    token = (index // width).to(tl.int64 if WIDE else tl.int32) * height * width + column
    token += begin * width
    m_left = mask & (column > 0)[:, None]
    m_right = mask & (column < width - 1)[:, None]

    zero = tl.zeros([BC, BD], tl.float32)
    above_l, above_c, above_r = zero, zero, zero
    on_l, on_c, on_r = zero, zero, zero
    below_l, below_c, below_r = zero, zero, zero
    total = zero
    p = p_gy + (token * stride_gy)[:, None] + o_d[None, :]
    before = _load_row(p - width * stride_gy, begin - 1, height, mask)
    here = _load_row(p, begin, height, mask)
    for row in range(begin, end):
        p = p_gy + ((token + width) * stride_gy)[:, None] + o_d[None, :]
        after = _load_row(p, row + 1, height, mask)
        p = p_x + (token * stride_x)[:, None] + o_d[None, :]
        left = tl.load(p - stride_x, mask=m_left, other=0.0).to(tl.float32)
        centre = tl.load(p, mask=mask, other=0.0).to(tl.float32)
        right = tl.load(p + stride_x, mask=m_right, other=0.0).to(tl.float32)
        above_l += after * left
        above_c += after * centre
        above_r += after * right
        on_l += here * left
        on_c += here * centre
        on_r += here * right
        below_l += before * left
        below_c += before * centre
        below_r += before * right
        if HAS_BIAS:
            total += here
        before, here = here, after
        token += width

    i_partial = i_columns * tl.num_programs(1) + tl.program_id(1)
    p_partial += i_partial.to(tl.int64) * (9 + HAS_BIAS) * d
    store_tap(p_partial, 0, above_l, d, o_d, m_d)
    store_tap(p_partial, 1, above_c, d, o_d, m_d)
    store_tap(p_partial, 2, above_r, d, o_d, m_d)
    store_tap(p_partial, 3, on_l, d, o_d, m_d)
    store_tap(p_partial, 4, on_c, d, o_d, m_d)
    store_tap(p_partial, 5, on_r, d, o_d, m_d)
    store_tap(p_partial, 6, below_l, d, o_d, m_d)
    store_tap(p_partial, 7, below_c, d, o_d, m_d)
    store_tap(p_partial, 8, below_r, d, o_d, m_d)
    if HAS_BIAS:
        store_tap(p_partial, 9, total, d, o_d, m_d)
