"""The scan across segments of a split length."""

from __future__ import annotations

import triton
import triton.language as tl

from .tile import channel_offsets, scan_steps


@triton.jit(do_not_specialize=["k", "num_seg"])
def carry_kernel(
    p_carry, p_sum_e2, p_A, p_first, k, d, num_seg,
    N: tl.constexpr, T: tl.constexpr, BD: tl.constexpr,
    REVERSE: tl.constexpr, HAS_FIRST: tl.constexpr,
):  # fmt: skip
    """Turn segment ends (from zero) into segment starts, in place, one state index a program.

    The last segment's end, or with REVERSE the first's, has not been computed.
    """
    num_d = tl.cdiv(d, BD)
    i_d = tl.program_id(0) % num_d
    i_bk = (tl.program_id(0) // num_d).to(tl.int64)
    n = tl.program_id(1)
    o_d = channel_offsets(i_d, BD, 1)
    m_d = o_d < d
    A_n = tl.load(p_A + ((i_bk % k) * N + n) * d + o_d, mask=m_d, other=0.0).to(tl.float32)
    state = tl.zeros([BD], tl.float32)
    if HAS_FIRST:
        state = tl.load(p_first + (i_bk * N + n) * d + o_d, mask=m_d, other=0.0)
    for i in range(0, num_seg, T):
        o_seg = i + tl.arange(0, T)
        mask = (o_seg < num_seg)[:, None] & m_d[None, :]
        m_end = (o_seg < num_seg - 1)[:, None] & m_d[None, :]
        o_seg = i_bk * num_seg + (num_seg - 1 - o_seg if REVERSE else o_seg)
        p_end = p_carry + (o_seg * N + n)[:, None] * d + o_d[None, :]
        end = tl.load(p_end, mask=m_end, other=0.0)
        sum_e2 = tl.load(p_sum_e2 + o_seg[:, None] * d + o_d[None, :], mask=m_end, other=0.0)
        decay = tl.exp2(sum_e2 * A_n[None, :])
        after, before, start, state = scan_steps(decay, end, state, 1)
        tl.store(p_end, before, mask=mask)
