"""Depthwise convolution's Triton implementation on the host: launch sizes, sums of parts."""

from __future__ import annotations

import torch
from torch import Tensor

from ..launch import cdiv, check_device, device_of, next_power_of_2
from .kernels import (
    conv3x3_kernel,
    conv4x1_kernel,
    conv_kernel,
    taps_grad3x3_kernel,
    taps_grad4x1_kernel,
    taps_grad_kernel,
)

WARPS = 4
TOKENS = 64  # of a tile
GRAD_TOKENS = 128  # of a tile whose products one program sums up
CHANNELS = 32  # of a block, at most: no usual width wastes any, and one kernel serves them all
SEQUENCE_CHANNELS = 64  # of a block of a sequence, where the width is a multiple
THREAD_CHANNELS = 4  # with more, taps and sums leave registers for too few threads
WALK_VALUES = 512  # tokens x channels of a tile that walks down the rows: four warps
MIN_ROWS = 4  # rows are cut into runs of no fewer to have as many programs ...
MAP_PROGRAMS, SEQUENCE_PROGRAMS = 2112, 1056  # ... as these: two waves, and one of costlier runs
MAX_INT32_OFFSET = 2**31 - 1


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
) -> tuple[Tensor, Tensor]:
    """Gradients of x and, one float32 row after the other, taps and bias (kh kw + 1 or 0, m).

    What was activated was not kept, and is computed again.
    """
    check_device("x", x)
    if silu:
        grad_y = _convolve(
            x, taps, bias, top, left, mirrored, x.shape[3], grad_y.dtype, grad_y=grad_y
        )
    gx = _convolve(grad_y, taps, None, top, left, mirrored, x.shape[3], x.dtype, adjoint=True)
    return gx, _taps_grad(grad_y, x, taps, bias, top, left, mirrored)


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
    if b == 0:
        return y
    flags = _flags(w, d, HAS_BIAS=bias is not None, WIDE=b * h * w * max(stride_x, stride_gy, m))
    flags |= {"SILU": silu, "GRADIENT": grad_y is not None}
    pointers = x, taps, taps if bias is None else bias, gy, y
    with device_of(x):
        (blocks, runs), run, walk = _walk(b, h, w, d, flags, 1 if adjoint else m // d)
        if _is_3x3(kh, kw, top, left, m // d):
            conv3x3_kernel[blocks, runs](
                *pointers, b * w, h, w, d, stride_x, stride_gy, run,
                FLIP=adjoint, **walk, **flags,
            )  # fmt: skip
        elif _is_4x1(kh, kw, w) and not (adjoint and m > 2 * d):
            conv4x1_kernel[blocks, runs, 1 if adjoint else m // d](
                *pointers, b, h, d, stride_x, stride_gy, run,
                TOP=top, R=m // d, MIRRORED=mirrored, ADJOINT=adjoint, **walk, **flags,
            )  # fmt: skip
        else:
            tiles = cdiv(b * h * w, TOKENS) * cdiv(d, flags["BD"])
            conv_kernel[(tiles, 1 if adjoint else m // d)](
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
) -> Tensor:
    b, h, w, d = x.shape
    kh, kw, m = taps.shape
    grad_y, stride_gy = _with_token_stride(grad_y)
    x, stride_x = _with_token_stride(x)
    has_bias = bias is not None
    if b == 0:
        return x.new_zeros(kh * kw + has_bias, m, dtype=torch.float32)
    flags = _flags(w, d, HAS_BIAS=has_bias, WIDE=b * h * w * max(stride_gy, stride_x))
    (blocks, runs), run, walk = _walk(b, h, w, d, flags, m // d)
    is_3x3, is_4x1 = _is_3x3(kh, kw, top, left, m // d), _is_4x1(kh, kw, w)
    tiles = cdiv(b * h * w, GRAD_TOKENS)
    if is_3x3 or is_4x1:
        tiles = cdiv(b * w, walk["BC"]) * runs
    partial = x.new_empty(tiles, kh * kw + has_bias, m, dtype=torch.float32)
    pointers, strides = (grad_y, x, partial), (stride_gy, stride_x)
    with device_of(x):
        if is_3x3:
            taps_grad3x3_kernel[blocks, runs](
                *pointers, b * w, h, w, d, *strides, run, **walk, **flags
            )  # fmt: skip
        elif is_4x1:
            taps_grad4x1_kernel[blocks, runs, m // d](
                *pointers, b, h, d, *strides, run,
                TOP=top, R=m // d, MIRRORED=mirrored, **walk, **flags,
            )  # fmt: skip
        else:
            taps_grad_kernel[(tiles * cdiv(d, flags["BD"]), m // d)](
                *pointers, b * h * w, h, w, d, *strides,
                KH=kh, KW=kw, TOP=top, LEFT=left, R=m // d, MIRRORED=mirrored, BT=GRAD_TOKENS,
                num_warps=WARPS, **flags,
            )  # fmt: skip
    return partial.sum(0)


def _is_3x3(kh: int, kw: int, top: int, left: int, repeats: int) -> bool:
    return (kh, kw, top, left, repeats) == (3, 3, 1, 1, 1)


def _is_4x1(kh: int, kw: int, w: int) -> bool:
    return (kh, kw, w) == (4, 1, 1)


def _walk(
    b: int, h: int, w: int, d: int, flags: dict[str, int | bool], repeats: int
) -> tuple[tuple[int, int], int, dict[str, int]]:
    """Grid of programs that walk down the rows, rows that each walks, and what else they take."""
    most = WALK_VALUES // flags["BD"]
    columns = min(most, next_power_of_2(b * w))
    blocks = cdiv(b * w, columns) * cdiv(d, flags["BD"])
    programs = SEQUENCE_PROGRAMS if w == 1 else MAP_PROGRAMS
    wanted = cdiv(programs * most // columns, blocks * repeats)
    run = min(h, max(MIN_ROWS, cdiv(h, wanted)))
    warps = columns * flags["BD"] // flags["SHARE"] // 32  # a thread holds one token's share
    return (blocks, cdiv(h, run)), run, {"BC": columns, "num_warps": max(1, warps)}


def _flags(w: int, d: int, HAS_BIAS: bool, WIDE: int) -> dict[str, int | bool]:
    """What all kernels take; WIDE counts the elements that offsets pass over."""
    block = min(CHANNELS, next_power_of_2(d))
    if w == 1 and d % SEQUENCE_CHANNELS == 0:
        block = SEQUENCE_CHANNELS
    share = min(THREAD_CHANNELS, block)
    return dict(BD=block, SHARE=share, HAS_BIAS=HAS_BIAS, WIDE=WIDE > MAX_INT32_OFFSET)


def _with_token_stride(x: Tensor) -> tuple[Tensor, int]:
    """A view or copy whose tokens, of all images, lie one distance apart, and that distance."""
    _, h, w, d = x.shape
    sizes_and_strides = zip(x.shape[:3], x.stride()[:3], (h * w, w, 1), strict=True)
    distances = {stride / steps for size, stride, steps in sizes_and_strides if size > 1}
    if len(distances) > 1 or (d > 1 and x.stride(3) != 1):
        return x.contiguous(), d
    return x, int(distances.pop()) if distances else d
