"""The forward pass, in two forms by state size: see the package's docstring."""

from __future__ import annotations

import triton
import triton.language as tl

from .tile import (
    LOG2E,
    UNSPECIALIZED,
    channel_offsets,
    elapsed_times,
    load_gaps,
    load_projections,
    load_rows,
    load_token_rows,
    load_tokens,
    run_of_columns,
    scale_projections,
    scan_steps,
    step_offsets,
    step_sizes,
    steps_of_columns,
    swap_runs,
    tile_from,
    tile_steps,
    to_columns,
)


@triton.jit
def _scan_along_time(state, A, e2, du, BC, W: tl.constexpr):
    """One state index, all steps of a column at once: state and A (1, columns), BC (T, [W,] 2).

    Returns:
        The states that runs start from, and the one after the tile (1, columns); <C, h>.
    """
    B, C = tl.split(BC)
    BD: tl.constexpr = e2.shape[1]
    x = du * to_columns(B, BD, W)
    h, _, start, end = scan_steps(tl.exp2(e2 * A), x, tl.sum(state, 0), W)
    return start[None, :], end[None, :], h * to_columns(C, BD, W)


@triton.jit
def _scan_states(state, A, e2, du, BC):
    """All states of a channel at once, step by step: state and A (NP, channels), BC (4, 2 NP)."""
    e_0, e_1, e_2, e_3 = _split_steps(e2)
    x_0, x_1, x_2, x_3 = _split_steps(du)
    BC_0, BC_1, BC_2, BC_3 = _split_steps(BC)
    state, y_0 = _step(state, A, e_0, x_0, BC_0)
    state, y_1 = _step(state, A, e_1, x_1, BC_1)
    state, y_2 = _step(state, A, e_2, x_2, BC_2)
    state, y_3 = _step(state, A, e_3, x_3, BC_3)
    y = tl.join(tl.join(y_0, y_1), tl.join(y_2, y_3))  # (channels, second bit, first bit)
    return state, tl.reshape(tl.permute(y, (2, 1, 0)), e2.shape)


@triton.jit
def _step(state, A, e2, du, BC):
    """One step of all states: the state after it, and <C, state> (channels)."""
    B, C = tl.split(tl.reshape(BC, [BC.shape[0] // 2, 2]))
    state = tl.exp2(e2[None, :] * A) * state + du[None, :] * B[:, None]
    return state, tl.sum(state * C[:, None], 0)


@triton.jit
def _split_steps(x):
    """The four rows of x: a thread's registers under other names."""
    pairs = tl.permute(tl.reshape(x, [2, 2, x.shape[1]]), (1, 2, 0))
    first, second = tl.split(pairs)
    x_0, x_1 = tl.split(tl.permute(first, (1, 0)))
    x_2, x_3 = tl.split(tl.permute(second, (1, 0)))
    return x_0, x_1, x_2, x_3


@triton.jit(do_not_specialize=UNSPECIALIZED)
def forward_kernel(
    p_u, p_delta, p_A, p_B, p_C, p_D, p_bias, p_elapsed, p_gaps, p_routes, p_y, p_carry, p_states,
    p_sum_e2, stride_ub, stride_uk, stride_ul, stride_db, stride_dk, stride_dl,
    stride_eb, stride_ek, stride_el,
    stride_Bb, stride_Bk, stride_Bl, stride_Bn, stride_rb, stride_rk,
    k, share_u, l, d, length, segment,
    N: tl.constexpr, NP: tl.constexpr, T: tl.constexpr, TS: tl.constexpr, BD: tl.constexpr,
    HAS_ROUTES: tl.constexpr, COMPLETE: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_ELAPSED: tl.constexpr, HAS_GAPS: tl.constexpr, SOFTPLUS: tl.constexpr,
    DENSE: tl.constexpr, WIDE: tl.constexpr, W: tl.constexpr,
    HAS_CARRY: tl.constexpr, STORE_Y: tl.constexpr, STORE_STATES: tl.constexpr,
    SUMMARY: tl.constexpr,
):  # fmt: skip
    """Scan one segment from the state in p_carry, or zero, leaving the segment's last state there.

    T steps a tile, or W runs of T; states are saved every TS steps. NP: the power of two from N on.
    share_u: routes that read the same tokens.
    """
    num_d = tl.cdiv(d, BD // W)
    i_d = tl.program_id(0) % num_d
    i_bk = tl.program_id(0) // num_d
    i_u = (i_bk % k // share_u).to(tl.int64)
    i_b, i_k, i_bk = (i_bk // k).to(tl.int64), (i_bk % k).to(tl.int64), i_bk.to(tl.int64)
    i_seg, num_seg = tl.program_id(1), tl.cdiv(length, segment)
    begin = tl.multiple_of(i_seg * segment, W * T)
    end = tl.minimum(begin + segment, length)
    if DENSE:  # rows of the inputs are adjacent, as y's: one offset serves all
        stride_ul, stride_dl, stride_el = d, d, d

    p_u += i_b * stride_ub + i_u * stride_uk
    p_delta += i_b * stride_db + i_k * stride_dk
    if HAS_ELAPSED:
        p_elapsed += i_b * stride_eb + i_k * stride_ek
    if HAS_GAPS:
        p_gaps += i_bk * stride_rk
    p_B += i_b * stride_Bb + i_k * stride_Bk
    p_C += i_b * stride_Bb + i_k * stride_Bk
    p_routes += i_b * stride_rb + i_k * stride_rk
    p_y += i_bk * l * d
    p_carry += (i_bk * num_seg + i_seg) * N * d
    p_states += (i_bk * tl.cdiv(length, TS) + begin // TS) * N * d

    o_d = channel_offsets(i_d, BD, W)
    m_d = o_d < d
    bias = tl.zeros([BD], tl.float32)
    if HAS_BIAS:
        bias = tl.load(p_bias + i_k * d + o_d, mask=m_d, other=0.0).to(tl.float32) * LOG2E
    if HAS_D:
        skip = tl.load(p_D + i_k * d + o_d, mask=m_d, other=0.0).to(tl.float32)
    o_n = tl.arange(0, NP)
    m_nd = (o_n < N)[:, None] & m_d[None, :]
    o_nd = o_n[:, None] * d + o_d[None, :]
    A = tl.load(p_A + i_k * N * d + o_nd, mask=m_nd, other=0.0).to(tl.float32)
    state = tl.zeros([NP, BD], tl.float32)
    if HAS_CARRY:
        state = tl.load(p_carry + o_nd, mask=m_nd, other=0.0)
    sum_e2 = tl.zeros([BD], tl.float32)

    EXACT: tl.constexpr = p_delta.dtype.element_ty == tl.float32
    o_t = step_offsets(T, W)
    o_step = steps_of_columns(T, BD, W)
    token, m_token = load_tokens(
        p_routes, tile_steps(begin, o_t, end, W, TS), end, l, HAS_ROUTES, COMPLETE, WIDE
    )
    row, m_row = to_columns(token, BD, W), to_columns(m_token, BD, W)
    delta = load_rows(p_delta, row, m_row, o_d, m_d, stride_dl, 0.0).to(tl.float32)
    u = load_rows(p_u, row, m_row, o_d, m_d, stride_ul, 0.0).to(tl.float32)
    if HAS_ELAPSED:
        elapsed = load_rows(p_elapsed, row, m_row, o_d, m_d, stride_el, float("-inf"))
        elapsed = elapsed.to(tl.float32)
    BC = load_projections(p_B, p_C, token * stride_Bl, m_token, stride_Bn, N, NP)
    BC = scale_projections(BC)
    i_1 = tile_from(begin + W * T, end, W * T)
    token_1, m_token_1 = load_tokens(
        p_routes, tile_steps(i_1, o_t, end, W, TS), end, l, HAS_ROUTES, COMPLETE, WIDE
    )
    row_1, m_row_1 = to_columns(token_1, BD, W), to_columns(m_token_1, BD, W)
    for i_s in range(begin, end, W * T):
        i_1, i_2 = tile_from(i_s + W * T, end, W * T), tile_from(i_s + 2 * W * T, end, W * T)
        if HAS_GAPS:  # one tile ahead, as rows are, is slower
            gaps = load_gaps(p_gaps, tile_steps(i_s, o_t, end, W, TS), end, HAS_ROUTES, COMPLETE)
        row, m_row = row_1, m_row_1
        delta_1 = load_rows(p_delta, row, m_row, o_d, m_d, stride_dl, 0.0)
        u_1 = load_rows(p_u, row, m_row, o_d, m_d, stride_ul, 0.0)
        if HAS_ELAPSED:
            elapsed_1 = load_rows(p_elapsed, row, m_row, o_d, m_d, stride_el, float("-inf"))
        token_2, m_token_2 = load_tokens(
            p_routes, tile_steps(i_2, o_t, end, W, TS), end, l, HAS_ROUTES, COMPLETE, WIDE
        )
        row_1, m_row_1 = to_columns(token_2, BD, W), to_columns(m_token_2, BD, W)
        BC_1 = load_projections(p_B, p_C, token_1 * stride_Bl, m_token_1, stride_Bn, N, NP)
        exists = o_step < end - i_s
        dt2, slope = step_sizes(delta, bias, exists, SOFTPLUS, EXACT)
        e2 = dt2
        if HAS_ELAPSED:
            e2, is_dt = elapsed_times(elapsed, dt2, exists)
        if HAS_GAPS:
            e2 = dt2 * to_columns(gaps, BD, W)
        if SUMMARY:
            sum_e2 += tl.sum(e2, 0)
        if N == 1:
            start, state, y = _scan_along_time(state, A, e2, dt2 * u, BC, W)
            if STORE_STATES:
                m_start, o_start = m_nd, o_nd
                if W > 1:
                    step = run_of_columns(BD, W)[None, :] * T
                    m_start = m_nd & (step % TS == 0) & (step < end - i_s)
                    o_start = step // TS * d + o_nd
                tl.store(p_states + o_start, start, mask=m_start)
                p_states += W * T // TS * d
        else:
            if STORE_STATES:  # before the steps: after them it would take registers that spill
                if i_s % TS == 0:
                    tl.store(p_states + o_nd, state, mask=m_nd)
                    p_states += N * d
            state, y = _scan_states(state, A, e2, dt2 * u, BC)
        if HAS_D:
            y += skip[None, :] * u
        if STORE_Y:
            o_s = tile_steps(i_s, o_t, end, W, TS)
            row, m_row = load_token_rows(p_routes, o_s, end, l, BD, W, HAS_ROUTES, COMPLETE, WIDE)
            tl.store(p_y + (row * d + o_d[None, :]), y, mask=m_row & m_d[None, :])
        BC = scale_projections(BC_1)
        delta, u = delta_1.to(tl.float32), u_1.to(tl.float32)
        if HAS_ELAPSED:
            elapsed = elapsed_1.to(tl.float32)
        token_1, m_token_1 = token_2, m_token_2

    tl.store(p_carry + o_nd, state, mask=m_nd)
    if SUMMARY:
        if W > 1:
            sum_e2 += swap_runs(sum_e2)
        tl.store(p_sum_e2 + (i_bk * num_seg + i_seg) * d + o_d, sum_e2, mask=m_d)
