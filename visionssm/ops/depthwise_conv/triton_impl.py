"""Depthwise convolution in Triton: forward, and backward for the maps and for the taps.

    forward     y[t, r]    = act(bias[r] + sum over taps of w[tap, r] x[t + shift(tap)])
    backward    gx[t]      = sum over r and taps of w[tap, r] gy[t - shift(tap), r]
                gw[tap, r] = sum over t of gy[t, r] x[t + shift(tap)]

r counts the repetitions, output channels that read the same input channel; mirrored, the odd ones
have shifts of their own. Tokens outside of the image count as zero. An activation's input is not
kept: the backward pass computes it again and multiplies gy with the slope there, in one kernel.

3 x 3 taps in the middle, what nearly every mixer has: a program owns a column of tiles, some tokens
of a row (of all images, side by side) by a block of channels, and walks down the rows. It loads
three tiles a row, left, centre and right, each of which goes into the three rows it belongs to:
three sums are under way. For the gradient of the taps three rows of gy are kept instead.

4 x 1 taps on one column, what scans of sequences have: a program walks down the rows likewise, for
one repetition, and keeps the last four tiles; the adjoint keeps those of both repetitions.

Other taps: all images' tokens stand in one row-major list, and a program owns a tile of them by a
block of channels, which it loads once a tap, shifted; the cache answers most of that.

gw and the gradient of the bias go through partial sums and a reduction in a fixed order: no
atomics, the same bits every run. All arithmetic is float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import check_device, device_of

WARPS = 4
TOKENS = 64  # of a tile
GRAD_TOKENS = 128  # of a tile whose products one program sums up
COLUMNS = 16  # of a tile that walks down the rows
MIN_ROWS, PROGRAMS = 4, 528  # rows are cut into runs of no fewer to have as many programs
THREADS = 8  # of a token, which share its block of channels
MAX_INT32_OFFSET = 2**31 - 1

# No alignment depends on these, and none is a constant where it is 1: one kernel serves all maps.
_SIZES = ["num_tokens", "num_columns", "run", "height", "width"]


@triton.jit
def _channel_offsets(i_d, d, BD: tl.constexpr, SHARE: tl.constexpr):
    """Channels of a block. A thread takes SHARE adjacent ones: more alignment is not claimed."""
    return tl.multiple_of(i_d * BD + tl.arange(0, BD), SHARE)


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


@triton.jit
def _bias(p_bias, o_d, m_d, HAS_BIAS: tl.constexpr):
    """Bias of a block of channels, or zeros."""
    if HAS_BIAS:
        bias = tl.load(p_bias + o_d, mask=m_d, other=0.0).to(tl.float32)
    else:
        bias = tl.zeros(o_d.shape, tl.float32)
    return bias


@triton.jit
def _silu(x):
    """x / (1 + exp(-x)), by the reciprocal of a root: a division takes twice the instructions."""
    r = tl.rsqrt(1.0 + tl.exp2(x * -1.4426950408889634))
    return x * (r * r)


@triton.jit
def _silu_gradient(x):
    r = tl.rsqrt(1.0 + tl.exp2(x * -1.4426950408889634))
    sigmoid = r * r
    return sigmoid * (1.0 + x * (1.0 - sigmoid))


@triton.jit
def _finish(y, p_gy, o_gy, mask, SILU: tl.constexpr, GRADIENT: tl.constexpr):
    """The sums y, or their SiLU, or with GRADIENT what the gradient gy of their SiLU is to them."""
    if GRADIENT:
        y = tl.load(p_gy + o_gy, mask=mask, other=0.0).to(tl.float32) * _silu_gradient(y)
    elif SILU:
        y = _silu(y)
    return y


@triton.jit
def _tap(p_taps, tap: tl.constexpr, d, o_d, m_d, FLIP: tl.constexpr):
    """Weight of a tap of nine for a block of channels, to multiply a tile with."""
    index: tl.constexpr = 8 - tap if FLIP else tap
    return tl.load(p_taps + index * d + o_d, mask=m_d, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _load_row(p, row, height, mask):
    """A tile of a row, 0 where the row or the column lies outside of the image."""
    return tl.load(p, mask=mask & (row >= 0) & (row < height), other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=_SIZES)
def _conv3x3_kernel(
    p_x, p_taps, p_bias, p_gy, p_y, num_columns, height, width, d, stride_x, stride_gy, run,
    FLIP: tl.constexpr, HAS_BIAS: tl.constexpr, SILU: tl.constexpr, GRADIENT: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, SHARE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """A run of rows of the output. FLIP turns the taps round, which makes it the adjoint."""
    num_d = tl.cdiv(d, BD)
    o_d = _channel_offsets(tl.program_id(0) % num_d, d, BD, SHARE)
    m_d = o_d < d
    index = (tl.program_id(0) // num_d) * BC + tl.arange(0, BC)
    column = index % width
    begin = tl.program_id(1) * run
    end = tl.minimum(begin + run, height)
    token = (index // width).to(tl.int64 if WIDE else tl.int32) * height * width + column
    token += (begin - 1) * width
    mask = (index < num_columns)[:, None] & m_d[None, :]
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

    bias = tl.zeros([BC, BD], tl.float32) + _bias(p_bias, o_d, m_d, HAS_BIAS)[None, :]
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
            result = _finish(y, p_gy, o_gy, mask, SILU, GRADIENT)
            tl.store(p_y + ((token - width) * d)[:, None] + o_d[None, :], result, mask=mask)
        y = y_next + on_l * left
        y += on_c * centre
        y += on_r * right
        y_next = bias + above_l * left
        y_next += above_c * centre
        y_next += above_r * right
        token += width


@triton.jit
def _store_tap(p_partial, tap: tl.constexpr, products, d, o_d, m_d):
    tl.store(p_partial + tap * d + o_d, tl.sum(products, 0), mask=m_d)


@triton.jit(do_not_specialize=_SIZES)
def _taps_grad3x3_kernel(
    p_gy, p_x, p_partial, num_columns, height, width, d, stride_gy, stride_x, run,
    HAS_BIAS: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr, SHARE: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """Sums over a run of rows of x with the three rows of gy that each goes into."""
    num_d = tl.cdiv(d, BD)
    o_d = _channel_offsets(tl.program_id(0) % num_d, d, BD, SHARE)
    m_d = o_d < d
    index = (tl.program_id(0) // num_d) * BC + tl.arange(0, BC)
    column = index % width
    begin = tl.program_id(1) * run
    end = tl.minimum(begin + run, height)
    token = (index // width).to(tl.int64 if WIDE else tl.int32) * height * width + column
    token += begin * width
    mask = (index < num_columns)[:, None] & m_d[None, :]
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

    i_partial = (tl.program_id(0) // num_d) * tl.num_programs(1) + tl.program_id(1)
    p_partial += i_partial.to(tl.int64) * (9 + HAS_BIAS) * d
    _store_tap(p_partial, 0, above_l, d, o_d, m_d)
    _store_tap(p_partial, 1, above_c, d, o_d, m_d)
    _store_tap(p_partial, 2, above_r, d, o_d, m_d)
    _store_tap(p_partial, 3, on_l, d, o_d, m_d)
    _store_tap(p_partial, 4, on_c, d, o_d, m_d)
    _store_tap(p_partial, 5, on_r, d, o_d, m_d)
    _store_tap(p_partial, 6, below_l, d, o_d, m_d)
    _store_tap(p_partial, 7, below_c, d, o_d, m_d)
    _store_tap(p_partial, 8, below_r, d, o_d, m_d)
    if HAS_BIAS:
        _store_tap(p_partial, 9, total, d, o_d, m_d)


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


@triton.jit(do_not_specialize=_SIZES)
def _conv4x1_kernel(
    p_x, p_taps, p_bias, p_gy, p_y, num_columns, height, d, stride_x, stride_gy, run,
    TOP: tl.constexpr, R: tl.constexpr, MIRRORED: tl.constexpr, ADJOINT: tl.constexpr,
    HAS_BIAS: tl.constexpr, SILU: tl.constexpr, GRADIENT: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, SHARE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """A run of rows of one repetition of sequences (w = 1), or of the sum that the adjoint is."""
    num_d = tl.cdiv(d, BD)
    o_d = _channel_offsets(tl.program_id(0) % num_d, d, BD, SHARE)
    m_d = o_d < d
    index = (tl.program_id(0) // num_d) * BC + tl.arange(0, BC)
    mask = (index < num_columns)[:, None] & m_d[None, :]
    begin = tl.program_id(1) * run
    end = tl.minimum(begin + run, height)
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
    bias = tl.zeros([BC, BD], tl.float32) + _bias(p_bias, o_d, m_d, HAS_BIAS)[None, :]
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
        y = _finish(y, p_gy, o_gy, mask, SILU, GRADIENT)
        tl.store(p_y + ((token + i) * stride_y)[:, None] + o_d[None, :], y, mask=mask)


@triton.jit(do_not_specialize=_SIZES)
def _conv_kernel(
    p_x, p_taps, p_bias, p_gy, p_y, num_tokens, height, width, d, stride_x, stride_gy,
    KH: tl.constexpr, KW: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, R: tl.constexpr,
    MIRRORED: tl.constexpr, ADJOINT: tl.constexpr,
    HAS_BIAS: tl.constexpr, SILU: tl.constexpr, GRADIENT: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr, SHARE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One repetition of the output; ADJOINT: the sum of R, read with the taps turned round."""
    num_d = tl.cdiv(d, BD)
    o_d = _channel_offsets(tl.program_id(0) % num_d, d, BD, SHARE)
    m_d = o_d < d
    token = (tl.program_id(0) // num_d) * BT + tl.arange(0, BT)
    m_token = token < num_tokens
    row, column = (token // width) % height, token % width
    if WIDE:
        token = token.to(tl.int64)
    if not ADJOINT:
        p_taps += tl.program_id(1) * d
        p_bias += tl.program_id(1) * d
        p_gy += tl.program_id(1) * d
        p_y += tl.program_id(1) * d

    y = tl.zeros([BT, BD], tl.float32) + _bias(p_bias, o_d, m_d, HAS_BIAS)[None, :]
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
    y = _finish(y, p_gy, (token * stride_gy)[:, None] + o_d[None, :], mask, SILU, GRADIENT)
    stride_y = d if ADJOINT else d * R
    tl.store(p_y + (token * stride_y)[:, None] + o_d[None, :], y, mask=mask)


@triton.jit(do_not_specialize=_SIZES)
def _taps_grad_kernel(
    p_gy, p_x, p_partial, num_tokens, height, width, d, stride_gy, stride_x,
    KH: tl.constexpr, KW: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, R: tl.constexpr,
    MIRRORED: tl.constexpr, HAS_BIAS: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr, SHARE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Sums over a tile of tokens of gy x, for every tap of one repetition."""
    num_d = tl.cdiv(d, BD)
    o_d = _channel_offsets(tl.program_id(0) % num_d, d, BD, SHARE)
    m_d = o_d < d
    i_tile, r = tl.program_id(0) // num_d, tl.program_id(1)
    token = i_tile * BT + tl.arange(0, BT)
    m_token = token < num_tokens
    row, column = (token // width) % height, token % width
    if WIDE:
        token = token.to(tl.int64)
    p = p_gy + (token * stride_gy + r * d)[:, None] + o_d[None, :]
    gy = tl.load(p, mask=m_token[:, None] & m_d[None, :], other=0.0).to(tl.float32)
    p_partial += (i_tile.to(tl.int64) * (KH * KW + HAS_BIAS) * R + r) * d + o_d
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


def depthwise_conv_forward(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    top: int,
    left: int,
    silu: bool,
    mirrored: bool,
) -> Tensor:
    """y (b, h, w, m) in x's dtype."""
    check_device("x", x)
    return _convolve(x, taps, bias, top, left, mirrored, x.shape[3], x.dtype, silu=silu)


def depthwise_conv_backward(
    grad_y: Tensor,
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    top: int,
    left: int,
    silu: bool,
    mirrored: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of (x, taps, bias). What was activated was not kept, and is computed again."""
    check_device("x", x)
    if silu:
        grad_y = _convolve(
            x, taps, bias, top, left, mirrored, x.shape[3], grad_y.dtype, grad_y=grad_y
        )
    gx = _convolve(grad_y, taps, None, top, left, mirrored, x.shape[3], x.dtype, adjoint=True)
    return gx, *_taps_grad(grad_y, x, taps, bias, top, left, mirrored)


def _convolve(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    top: int,
    left: int,
    mirrored: bool,
    d: int,
    dtype: torch.dtype,
    adjoint: bool = False,
    silu: bool = False,
    grad_y: Tensor | None = None,
) -> Tensor:
    """The sums, their SiLU, or their gradient from that of their SiLU; or the adjoint's sums."""
    b, h, w, _ = x.shape
    kh, kw, m = taps.shape
    x, stride_x = _with_token_stride(x)
    gy, stride_gy = (x, 0) if grad_y is None else _with_token_stride(grad_y)
    y = x.new_empty(b, h, w, d if adjoint else m, dtype=dtype)
    flags = _flags(d, HAS_BIAS=bias is not None, WIDE=b * h * w * max(stride_x, stride_gy, m))
    flags |= {"SILU": silu, "GRADIENT": grad_y is not None}
    pointers = x, taps, taps if bias is None else bias, gy, y
    with device_of(x):
        if _is_3x3(kh, kw, top, left, m // d):
            grid, run = _columns(b, h, w, d)
            _conv3x3_kernel[grid](
                *pointers, b * w, h, w, d, stride_x, stride_gy, run,
                FLIP=adjoint, BC=COLUMNS, num_warps=_column_warps(flags), **flags,
            )  # fmt: skip
        elif (kh, kw, w) == (4, 1, 1) and not (adjoint and m > 2 * d):
            columns = min(COLUMNS, triton.next_power_of_2(b))
            (blocks, runs), run = _columns(b, h, w, d, columns)
            _conv4x1_kernel[(blocks, runs, 1 if adjoint else m // d)](
                *pointers, b, h, d, stride_x, stride_gy, run,
                TOP=top, R=m // d, MIRRORED=mirrored, ADJOINT=adjoint,
                BC=columns, num_warps=_column_warps(flags, columns), **flags,
            )  # fmt: skip
        else:
            blocks = triton.cdiv(b * h * w, TOKENS) * triton.cdiv(d, flags["BD"])
            _conv_kernel[(blocks, 1 if adjoint else m // d)](
                *pointers, b * h * w, h, w, d, stride_x, stride_gy,
                KH=kh, KW=kw, TOP=top, LEFT=left, R=m // d, MIRRORED=mirrored,
                ADJOINT=adjoint, BT=TOKENS, num_warps=WARPS, **flags,
            )  # fmt: skip
    return y


def _taps_grad(
    grad_y: Tensor,
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    top: int,
    left: int,
    mirrored: bool,
) -> tuple[Tensor, Tensor | None]:
    b, h, w, d = x.shape
    kh, kw, m = taps.shape
    grad_y, stride_gy = _with_token_stride(grad_y)
    x, stride_x = _with_token_stride(x)
    has_bias = bias is not None
    flags = _flags(d, HAS_BIAS=has_bias, WIDE=b * h * w * max(stride_gy, stride_x))
    is_3x3 = _is_3x3(kh, kw, top, left, m // d)
    grid, run = _columns(b, h, w, d)
    tiles = triton.cdiv(b * h * w, GRAD_TOKENS)
    if is_3x3:
        tiles = triton.cdiv(b * w, COLUMNS) * grid[1]
    partial = x.new_empty(tiles, kh * kw + has_bias, m, dtype=torch.float32)
    with device_of(x):
        if is_3x3:
            _taps_grad3x3_kernel[grid](
                grad_y, x, partial, b * w, h, w, d, stride_gy, stride_x, run,
                BC=COLUMNS, num_warps=_column_warps(flags), **flags,
            )  # fmt: skip
        else:
            _taps_grad_kernel[(tiles * triton.cdiv(d, flags["BD"]), m // d)](
                grad_y, x, partial, b * h * w, h, w, d, stride_gy, stride_x,
                KH=kh, KW=kw, TOP=top, LEFT=left, R=m // d, MIRRORED=mirrored, BT=GRAD_TOKENS,
                num_warps=WARPS, **flags,
            )  # fmt: skip
    gtaps = partial[:, : kh * kw].sum(0).view(kh, kw, m).to(taps.dtype)
    return gtaps, None if bias is None else partial[:, kh * kw].sum(0).to(bias.dtype)


def _is_3x3(kh: int, kw: int, top: int, left: int, repeats: int) -> bool:
    return (kh, kw, top, left, repeats) == (3, 3, 1, 1, 1)


def _columns(b: int, h: int, w: int, d: int, columns: int = COLUMNS) -> tuple[tuple[int, int], int]:
    """Grid of programs that walk down the rows, and how many rows each walks."""
    blocks = triton.cdiv(b * w, columns) * triton.cdiv(d, _block(d))
    wanted = triton.cdiv(PROGRAMS * COLUMNS // columns, blocks)
    run = min(h, max(MIN_ROWS, triton.cdiv(h, wanted)))
    return (blocks, triton.cdiv(h, run)), run


def _flags(d: int, HAS_BIAS: bool, WIDE: int) -> dict[str, int | bool]:
    """What all kernels take; WIDE counts the elements that offsets pass over."""
    block = _block(d)
    return dict(
        BD=block, SHARE=max(1, block // THREADS), HAS_BIAS=HAS_BIAS, WIDE=WIDE > MAX_INT32_OFFSET
    )


def _column_warps(flags: dict, columns: int = COLUMNS) -> int:
    """Warps whose threads hold one token each, by their share of channels."""
    return max(1, columns * flags["BD"] // flags["SHARE"] // 32)


def _with_token_stride(x: Tensor) -> tuple[Tensor, int]:
    """A view or copy whose tokens, of all images, lie one distance apart, and that distance."""
    _, h, w, d = x.shape
    sizes_and_strides = zip(x.shape[:3], x.stride()[:3], (h * w, w, 1), strict=True)
    distances = {stride / steps for size, stride, steps in sizes_and_strides if size > 1}
    if len(distances) > 1 or (d > 1 and x.stride(3) != 1):
        return x.contiguous(), d
    return x, int(distances.pop()) if distances else d


def _block(d: int) -> int:
    """Channels of a block: few enough to waste none of the usual widths."""
    return min(64 if d % 64 == 0 else 32, triton.next_power_of_2(d))
