"""State fusion in Triton: forward, and backward for the states and for the taps.

All images' tokens stand in one row-major list, and a program owns a tile of them by a block of
channels. Through a tap at (dr, dc) the token at (r, c) of an image reads the state at
(clamp(r + dr), clamp(c + dc)): 25 rows of channels, as the three taps at the centre are one, most
of which a neighbouring program has brought to the cache.

    forward     y[t]    = sum over taps of w x[source(t, tap)]
    backward    gx[s]   = sum over taps of w (sum of gy[t] over all t with source(t, tap) = s)
                gw[tap] = sum over t of gy[t] x[source(t, tap)]

Inside the map, one token at most reads s through a tap. At the border clamping lets more do so: a
state in the first row is read through dr = -e by the tokens of rows 0 to e, and likewise at the
other sides. gx is gathered by a launch for inner tokens and one for border tokens, in whose eight
regions (corners and edges, over all images) every token has as many readers through a tap.

gw goes through partial sums over runs of rows and a reduction in a fixed order: no atomics, the
same bits every run. All arithmetic is float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import cdiv, check_device, device_of, next_power_of_2

TOKENS = 16  # of a tile: 16 values a thread, of whose registers there are enough for 22 warps
SUM_WARPS, COLUMNS = 4, 4  # where a program sums over tokens: rows at once, and columns of each
SUM_PROGRAMS = 512  # for each dilation, at most: rows are cut into as many runs as that allows
MAX_INT32_OFFSET = 2**31 - 1


@triton.jit
def _clamp(x, size):
    return tl.minimum(tl.maximum(x, 0), size - 1)


@triton.jit
def _channel_offsets(i_d, d, BD: tl.constexpr, EVEN: tl.constexpr, SHARE: tl.constexpr):
    """Channels of a block; one past the last stands for the last, so that no access is masked.

    Its lane computes and stores the last one's values again, as lanes of tokens past the last do.
    A thread takes SHARE adjacent channels: the compiler is told of no more alignment than that.
    """
    o_d = tl.multiple_of(i_d * BD + tl.arange(0, BD), SHARE)
    if not EVEN:
        o_d = tl.minimum(o_d, d - 1)
    return o_d


@triton.jit
def _tap(p_w, i: tl.constexpr, a: tl.constexpr, c: tl.constexpr, d, o_d):
    """Weight of a tap for the program's channels; at the centre, of all three."""
    w = tl.load(p_w + (9 * i + 3 * a + c) * d + o_d).to(tl.float32)
    if i == 0 and (a == 1 and c == 1):
        w += tl.load(p_w + 13 * d + o_d).to(tl.float32)
        w += tl.load(p_w + 22 * d + o_d).to(tl.float32)
    return w


# No alignment depends on these, and none is a constant where it is 1: one kernel serves all maps.
_SIZES = ["num_tokens", "num_rows", "images", "run", "height", "width"]


@triton.jit(do_not_specialize=_SIZES)
def _state_fusion_kernel(
    p_x, p_w, p_y, num_tokens, height, width, d,
    BT: tl.constexpr, BD: tl.constexpr, EVEN: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """y of a tile of tokens."""
    num_d = tl.cdiv(d, BD)
    o_d = _channel_offsets(tl.program_id(0) % num_d, d, BD, EVEN, BD)
    token = (tl.program_id(0) // num_d) * BT + tl.arange(0, BT)
    token = tl.minimum(token, num_tokens - 1).to(tl.int64 if WIDE else tl.int32)
    cell = token % (height * width)
    row, column = cell // width, cell % width
    first = token - cell

    y = tl.zeros([BT, BD], tl.float32)
    for i in tl.static_range(3):
        for a in tl.static_range(3):
            row_start = first + _clamp(row + (a - 1) * (2 * i + 1), height) * width
            for c in tl.static_range(3):
                if i == 0 or (a != 1 or c != 1):
                    source = row_start + _clamp(column + (c - 1) * (2 * i + 1), width)
                    x = tl.load(p_x + source[:, None] * d + o_d[None, :])
                    y += _tap(p_w, i, a, c, d, o_d)[None, :] * x.to(tl.float32)
    tl.store(p_y + token[:, None] * d + o_d[None, :], y)


@triton.jit
def _span(part, size):
    """First index and length of the first, the inner (1) or the last part of an axis."""
    first = tl.where(part == 0, 0, tl.where(part == 1, 1, size - 1))
    inner = tl.maximum(size - 2, 0)
    return first, tl.where(part == 0, 1, tl.where(part == 1, inner, (size > 1).to(tl.int32)))


@triton.jit
def _num_readers(part, size, side, dilation):
    """How many rows may read one row of this part through a tap to that side (-1, 0, 1)."""
    above = (side < 0) & (part == 0)
    below = (side > 0) & ((part == 2) | (size == 1))
    return 1 + tl.where(above, dilation, 0) + tl.where(below, dilation, 0)


@triton.jit
def _load_reader(p_gy, first, row, column, height, width, d, o_d):
    """gy at a row and column of each token's image, 0 outside of it."""
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    reader = first + row * width + column
    gy = tl.load(p_gy + reader[:, None] * d + o_d[None, :], mask=inside[:, None], other=0.0)
    return gy.to(tl.float32)


@triton.jit(do_not_specialize=_SIZES)
def _state_fusion_input_grad_kernel(
    p_gy, p_w, p_gx, images, height, width, d,
    BORDER: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, EVEN: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """gx of a tile of inner tokens, or with BORDER of the border's region program_id(1)."""
    num_d = tl.cdiv(d, BD)
    i_tile = tl.program_id(0) // num_d
    row_part, column_part = 1, 1
    if BORDER:
        region = tl.program_id(1)
        region += (region >= 4).to(tl.int32)  # of nine, row by row, 4 is the inner one
        row_part, column_part = region // 3, region % 3
    first_row, rows = _span(row_part, height)
    first_column, columns = _span(column_part, width)
    num_tokens = images * rows * columns
    if i_tile * BT >= num_tokens:
        return

    o_d = _channel_offsets(tl.program_id(0) % num_d, d, BD, EVEN, BD)
    token = tl.minimum(i_tile * BT + tl.arange(0, BT), num_tokens - 1)
    token = token.to(tl.int64 if WIDE else tl.int32)
    cell = token % (rows * columns)
    row, column = first_row + cell // columns, first_column + cell % columns
    first = (token // (rows * columns)) * height * width

    gx = tl.zeros([BT, BD], tl.float32)
    if BORDER:  # few tokens, so loops: unrolled, this would take the compiler twice as long
        for tap in range(27):
            dilation, a, c = 2 * (tap // 9) + 1, tap // 3 % 3 - 1, tap % 3 - 1
            w = tl.load(p_w + tap * d + o_d).to(tl.float32)[None, :]
            for j in range(_num_readers(row_part, height, a, dilation)):
                r = row - a * (dilation - j)
                for k in range(_num_readers(column_part, width, c, dilation)):
                    q = column - c * (dilation - k)
                    gx += w * _load_reader(p_gy, first, r, q, height, width, d, o_d)
    else:
        for i in tl.static_range(3):
            for a in tl.static_range(3):
                for c in tl.static_range(3):
                    if i == 0 or (a != 1 or c != 1):
                        r, q = row - (a - 1) * (2 * i + 1), column - (c - 1) * (2 * i + 1)
                        gy = _load_reader(p_gy, first, r, q, height, width, d, o_d)
                        gx += _tap(p_w, i, a, c, d, o_d)[None, :] * gy
    state = first + row * width + column
    tl.store(p_gx + state[:, None] * d + o_d[None, :], gx)


@triton.jit
def _add_products(left, centre, right, gy, p_row, o_left, o_centre, o_right):
    """Add gy x, summed over a tile's columns, for the three taps in a row of x."""
    x = tl.load(p_row[:, :, None] + o_left)
    left += tl.sum(gy * x.to(tl.float32), 1)
    x = tl.load(p_row[:, :, None] + o_centre)
    centre += tl.sum(gy * x.to(tl.float32), 1)
    x = tl.load(p_row[:, :, None] + o_right)
    right += tl.sum(gy * x.to(tl.float32), 1)
    return left, centre, right


@triton.jit
def _store_sums(p, left, centre, right, d):
    tl.store(p, tl.sum(left, 0))
    tl.store(p + d, tl.sum(centre, 0))
    tl.store(p + 2 * d, tl.sum(right, 0))


@triton.jit(do_not_specialize=_SIZES)
def _state_fusion_weight_grad_kernel(
    p_gy, p_x, p_partial, num_rows, run, height, width, d,
    W: tl.constexpr, T: tl.constexpr, BD: tl.constexpr, EVEN: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Sums over a run of rows of gy x, for the nine taps of one dilation.

    A warp walks a row, T columns at a time, its threads along the channels: what it adds up never
    leaves a thread, and where a row lies is found out once.
    """
    num_d = tl.cdiv(d, BD)
    o_d = _channel_offsets(tl.program_id(0) % num_d, d, BD, EVEN, (BD + 31) // 32)
    i_run, i_dilation = tl.program_id(0) // num_d, tl.program_id(1)
    dilation = 2 * i_dilation + 1
    begin = i_run * run
    end = tl.minimum(begin + run, num_rows)

    zero = tl.zeros([W, BD], tl.float32)
    a_left, a_centre, a_right = zero, zero, zero  # of the row above
    s_left, s_centre, s_right = zero, zero, zero  # of the same row
    b_left, b_centre, b_right = zero, zero, zero  # of the row below
    for start in range(begin, end, W):
        o_row = start + tl.arange(0, W)[:, None]
        m_row = o_row < end
        o_row = tl.minimum(o_row, end - 1).to(tl.int64 if WIDE else tl.int32)
        row = o_row % height
        row_above = o_row - row + _clamp(row - dilation, height)
        row_below = o_row - row + _clamp(row + dilation, height)
        p_gy_row = p_gy + o_row * (width * d)
        p_same = p_x + o_row * (width * d)
        p_above, p_below = p_x + row_above * (width * d), p_x + row_below * (width * d)
        for first in range(0, width, T):
            column = first + tl.arange(0, T)[None, :]
            m_token = m_row & (column < width)
            column = tl.minimum(column, width - 1)
            o_centre = column[:, :, None] * d + o_d[None, None, :]
            o_left = _clamp(column - dilation, width)[:, :, None] * d + o_d[None, None, :]
            o_right = _clamp(column + dilation, width)[:, :, None] * d + o_d[None, None, :]
            gy = tl.load(p_gy_row[:, :, None] + o_centre, mask=m_token[:, :, None], other=0.0)
            gy = gy.to(tl.float32)
            a_left, a_centre, a_right = _add_products(
                a_left, a_centre, a_right, gy, p_above, o_left, o_centre, o_right
            )
            s_left, s_centre, s_right = _add_products(
                s_left, s_centre, s_right, gy, p_same, o_left, o_centre, o_right
            )
            b_left, b_centre, b_right = _add_products(
                b_left, b_centre, b_right, gy, p_below, o_left, o_centre, o_right
            )

    p_partial += (i_run * 27 + i_dilation * 9) * d + o_d
    _store_sums(p_partial, a_left, a_centre, a_right, d)
    _store_sums(p_partial + 3 * d, s_left, s_centre, s_right, d)
    _store_sums(p_partial + 6 * d, b_left, b_centre, b_right, d)


def state_fusion_forward(x: Tensor, weight: Tensor) -> Tensor:
    """y (b, h, w, d) in x's dtype."""
    check_device("x", x)
    x, weight = x.contiguous(), weight.contiguous()
    y = torch.empty_like(x)
    b, h, w, d = x.shape
    flags = _flags(x)
    grid = (cdiv(b * h * w, TOKENS) * cdiv(d, flags["BD"]),)
    with device_of(x):
        _state_fusion_kernel[grid](x, weight, y, b * h * w, h, w, d, BT=TOKENS, **flags)
    return y


def state_fusion_backward(grad_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of (x, weight)."""
    check_device("x", x)
    grad_y, x, weight = grad_y.contiguous(), x.contiguous(), weight.contiguous()
    with device_of(x):
        return _input_grad(grad_y, weight, x.dtype), _weight_grad(grad_y, x, weight.dtype)


def _input_grad(grad_y: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    b, h, w, d = grad_y.shape
    gx, flags = torch.empty_like(grad_y, dtype=dtype), _flags(grad_y)
    blocks = cdiv(d, flags["BD"])
    inner = cdiv(b * max(h - 2, 0) * max(w - 2, 0), TOKENS)
    edge = cdiv(b * max(h - 2, w - 2, 1), TOKENS)
    for border, grid in ((False, (inner * blocks,)), (True, (edge * blocks, 8))):
        if grid[0]:
            _state_fusion_input_grad_kernel[grid](
                grad_y, weight, gx, b, h, w, d, BORDER=border, BT=TOKENS, **flags
            )
    return gx


def _weight_grad(grad_y: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    b, h, w, d = x.shape
    flags = _flags(x, SUM_WARPS)
    blocks = cdiv(d, flags["BD"])
    run = cdiv(max(1, b * h), max(1, SUM_PROGRAMS // blocks))
    run = cdiv(run, SUM_WARPS) * SUM_WARPS
    runs = cdiv(b * h, run)
    partial = x.new_empty(runs, 3, 3, 3, d, dtype=torch.float32)
    _state_fusion_weight_grad_kernel[(runs * blocks, 3)](
        grad_y, x, partial, b * h, run, h, w, d, W=SUM_WARPS, T=COLUMNS, **flags
    )
    return partial.sum(0).to(dtype)


def _flags(x: Tensor, warps: int | None = None) -> dict[str, int]:
    """What all kernels take: blocks of at most 64 channels and, by default, a warp for 32."""
    d = x.shape[3]
    block = min(64, next_power_of_2(d))
    if d % 64 and d % 32 == 0:
        block = 32  # rather one channel a thread than idle threads
    wide = x.numel() > MAX_INT32_OFFSET
    return dict(BD=block, EVEN=d % block == 0, WIDE=wide, num_warps=warps or max(1, block // 32))
