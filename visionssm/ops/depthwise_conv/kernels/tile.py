"""What the kernels share: blocks of channels, bias and activation, sums for a tap."""

from __future__ import annotations

import triton
import triton.language as tl

# No alignment depends on these, and none is a constant where it is 1: one kernel serves all maps.
SIZES = ["num_tokens", "num_columns", "run", "height", "width"]


@triton.jit
def channel_offsets(d, BD: tl.constexpr, SHARE: tl.constexpr):
    """Channels of the program's block, whether they exist, and which of the other blocks it has.

    A thread takes SHARE adjacent channels: more alignment is not claimed.
    """
    num_d = tl.cdiv(d, BD)
    i_d, i_other = tl.program_id(0) % num_d, tl.program_id(0) // num_d
    o_d = tl.multiple_of(i_d * BD + tl.arange(0, BD), SHARE)
    return o_d, o_d < d, i_other


@triton.jit
def walk_offsets(
    num_columns, height, d, run, BC: tl.constexpr, BD: tl.constexpr, SHARE: tl.constexpr
):
    """What a program that walks down the rows owns.

    Returns:
        its channels, whether they exist; its block of columns, these, and whether both exist; the
        first row of its run, and the one after the last.
    """
    o_d, m_d, i_columns = channel_offsets(d, BD, SHARE)
    index = i_columns * BC + tl.arange(0, BC)
    mask = (index < num_columns)[:, None] & m_d[None, :]
    begin = tl.program_id(1) * run
    return o_d, m_d, i_columns, index, mask, begin, tl.minimum(begin + run, height)


@triton.jit
def load_bias(p_bias, o_d, m_d, HAS_BIAS: tl.constexpr):
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
def finish(y, p_gy, o_gy, mask, SILU: tl.constexpr, GRADIENT: tl.constexpr):
    """The sums y, or their SiLU, or with GRADIENT what the gradient gy of their SiLU is to them."""
    if GRADIENT:
        y = tl.load(p_gy + o_gy, mask=mask, other=0.0).to(tl.float32) * _silu_gradient(y)
    elif SILU:
        y = _silu(y)
    return y


@triton.jit
def store_tap(p_partial, tap: tl.constexpr, products, d, o_d, m_d):
    tl.store(p_partial + tap * d + o_d, tl.sum(products, 0), mask=m_d)
