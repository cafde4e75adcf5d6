"""Depthwise convolution in Triton: forward, and backward for the maps and for the taps.

All images' tokens stand in one row-major list, and a program owns a tile of them by a block of
channels. Through every tap it loads the tile once more, shifted, which the cache answers: taps are
few, and all but one shift are another program's or another tap's lines.

    forward     y[t, r]    = sum over taps of w[tap, r] x[t + shift(tap)]
    backward    gx[t]      = sum over r and taps of w[tap, r] gy[t - shift(tap), r]
                gw[tap, r] = sum over t of gy[t, r] x[t + shift(tap)]

r counts the repetitions, output channels that read the same input channel; tokens outside of the
image count as zero. gw goes through partial sums over tiles of tokens and a reduction in a fixed
order: no atomics, the same bits every run. All arithmetic is float32.
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
SHARE = 8  # adjacent channels of a thread
MAX_INT32_OFFSET = 2**31 - 1

# No alignment depends on these, and none is a constant where it is 1: one kernel serves all maps.
_SIZES = ["num_tokens", "height", "width"]


@triton.jit
def _channel_offsets(i_d, d, BD: tl.constexpr, SHARE: tl.constexpr):
    """Channels of a block. A thread takes SHARE adjacent ones: more alignment is not claimed."""
    return tl.multiple_of(i_d * BD + tl.arange(0, BD), SHARE)


@triton.jit
def _is_inside(row, column, height, width, dr, dc):
    """Which tokens' image has a token at this distance."""
    inside = (row + dr >= 0) & (row + dr < height)
    return inside & (column + dc >= 0) & (column + dc < width)


@triton.jit(do_not_specialize=_SIZES)
def _conv_kernel(
    p_x, p_taps, p_y, num_tokens, height, width, d, stride_x,
    KH: tl.constexpr, KW: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    R: tl.constexpr, ADJOINT: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
    SHARE: tl.constexpr, WIDE: tl.constexpr,
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
        p_y += tl.program_id(1) * d

    y = tl.zeros([BT, BD], tl.float32)
    for a in tl.static_range(KH):
        for c in tl.static_range(KW):
            dr, dc = (TOP - a, LEFT - c) if ADJOINT else (a - TOP, c - LEFT)
            mask = (_is_inside(row, column, height, width, dr, dc) & m_token)[:, None]
            p = p_x + ((token + (dr * width + dc)) * stride_x)[:, None] + o_d[None, :]
            p_w = p_taps + (a * KW + c) * d * R + o_d
            for r in tl.static_range(R if ADJOINT else 1):
                x = tl.load(p + r * d, mask=mask & m_d[None, :], other=0.0).to(tl.float32)
                w = tl.load(p_w + r * d, mask=m_d, other=0.0).to(tl.float32)
                y += w[None, :] * x
    stride_y = d if ADJOINT else d * R
    tl.store(
        p_y + (token * stride_y)[:, None] + o_d[None, :], y, mask=m_token[:, None] & m_d[None, :]
    )


@triton.jit(do_not_specialize=_SIZES)
def _taps_grad_kernel(
    p_gy, p_x, p_partial, num_tokens, height, width, d, stride_gy, stride_x,
    KH: tl.constexpr, KW: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    R: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, SHARE: tl.constexpr, WIDE: tl.constexpr,
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
    p_partial += (i_tile.to(tl.int64) * KH * KW * R + r) * d + o_d
    for a in tl.static_range(KH):
        for c in tl.static_range(KW):
            dr, dc = a - TOP, c - LEFT
            mask = (_is_inside(row, column, height, width, dr, dc) & m_token)[:, None]
            p = p_x + ((token + (dr * width + dc)) * stride_x)[:, None] + o_d[None, :]
            x = tl.load(p, mask=mask & m_d[None, :], other=0.0).to(tl.float32)
            tl.store(p_partial + (a * KW + c) * R * d, tl.sum(gy * x, 0), mask=m_d)


def depthwise_conv_forward(x: Tensor, taps: Tensor, top: int, left: int) -> Tensor:
    """y (b, h, w, m) in x's dtype."""
    check_device("x", x)
    return _convolve(x, taps, top, left, x.shape[3], x.dtype, adjoint=False)


def depthwise_conv_backward(
    grad_y: Tensor, x: Tensor, taps: Tensor, top: int, left: int
) -> tuple[Tensor, Tensor]:
    """Gradients of (x, taps)."""
    check_device("x", x)
    gx = _convolve(grad_y, taps, top, left, x.shape[3], x.dtype, adjoint=True)
    return gx, _taps_grad(grad_y, x, taps, top, left)


def _convolve(
    x: Tensor, taps: Tensor, top: int, left: int, d: int, dtype: torch.dtype, adjoint: bool
) -> Tensor:
    b, h, w, _ = x.shape
    kh, kw, m = taps.shape
    x, stride_x = _with_token_stride(x)
    y = x.new_empty(b, h, w, d if adjoint else m, dtype=dtype)
    block = _block(d)
    grid = (triton.cdiv(b * h * w, TOKENS) * triton.cdiv(d, block), 1 if adjoint else m // d)
    with device_of(x):
        _conv_kernel[grid](
            x, taps, y, b * h * w, h, w, d, stride_x,
            KH=kh, KW=kw, TOP=top, LEFT=left, R=m // d, ADJOINT=adjoint, BT=TOKENS, BD=block,
            SHARE=min(SHARE, block), WIDE=b * h * w * max(stride_x, m) > MAX_INT32_OFFSET,
            num_warps=WARPS,
        )  # fmt: skip
    return y


def _taps_grad(grad_y: Tensor, x: Tensor, taps: Tensor, top: int, left: int) -> Tensor:
    b, h, w, d = x.shape
    kh, kw, m = taps.shape
    grad_y, stride_gy = _with_token_stride(grad_y)
    x, stride_x = _with_token_stride(x)
    block, tiles = _block(d), triton.cdiv(b * h * w, GRAD_TOKENS)
    partial = x.new_empty(tiles, kh, kw, m, dtype=torch.float32)
    with device_of(x):
        _taps_grad_kernel[(tiles * triton.cdiv(d, block), m // d)](
            grad_y, x, partial, b * h * w, h, w, d, stride_gy, stride_x,
            KH=kh, KW=kw, TOP=top, LEFT=left, R=m // d, BT=GRAD_TOKENS, BD=block,
            SHARE=min(SHARE, block), WIDE=b * h * w * max(stride_gy, stride_x) > MAX_INT32_OFFSET,
            num_warps=WARPS,
        )  # fmt: skip
    return partial.sum(0).to(taps.dtype)


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
