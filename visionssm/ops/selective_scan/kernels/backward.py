"""The backward pass, and the sums over channels that it needs."""

from __future__ import annotations

import triton
import triton.language as tl

from .tile import (
    LN2,
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
    swap_lanes,
    swap_runs,
    tile_before,
    to_columns,
)


@triton.jit
def _flip_steps(x):
    """Turn the steps round, (T, channels): one thread's registers, so this moves no data."""
    return tl.trans(tl.flip(tl.trans(x), 1))


@triton.jit
def _compose_shifts(x1, first1, before1, x2, first2, before2):
    """Of two runs of values the last one, and the one before it; `first` is 1 for single values.

    As in a scan's composition, constants leave no arithmetic: this names registers.
    """
    return x2, first1 * 0.0, first2 * x1 + before2


@triton.jit
def _previous_steps(x):
    """The value of the step before, 1 for the first."""
    one = tl.full(x.shape, 1.0, tl.float32)
    minus_zero = tl.zeros(x.shape, tl.float32) * -1.0
    before = tl.where(tl.arange(0, x.shape[0])[:, None] == 0, one, minus_zero)
    return tl.associative_scan((x, one, before), 0, _compose_shifts)[2]


@triton.jit
def _exchange(x, y, M: tl.constexpr):
    """Of lanes that differ in bit M the lower one gets the sum of both in x, the other in y."""
    lane = tl.arange(0, x.shape[1])[None, :]
    upper = (lane & M) != 0
    kept = tl.where(upper, y, x)
    sent = tl.where(upper, x, y)
    return kept + swap_lanes(sent, M)


@triton.jit
def _split_rows(x):
    """The upper and the lower half of the rows of x."""
    half: tl.constexpr = x.shape[0] // 2
    return tl.split(tl.permute(tl.reshape(x, [2, half, x.shape[1]]), (1, 2, 0)))


@triton.jit
def _scan_back(a, w, r_in, W: tl.constexpr):
    """g_t = w_t + r_(t+1) with r_t = a_t g_t over the steps of a tile, a and w (T, columns).

    Returns:
        all g_t, and r of the tile's first step (columns), which all runs of a channel have.
    """
    is_first_step = tl.arange(0, a.shape[0])[:, None] == 0
    a_next = _previous_steps(_flip_steps(a))
    if W == 1:
        g = _flip_steps(scan_steps(a_next, _flip_steps(w), r_in, 1)[0])
        return g, tl.sum(tl.where(is_first_step, a * g, 0.0), 0)
    else:
        tl.static_assert(W == 2)
        # Both runs go from zero; what the later one starts from, the tile does.
        decay, g = tl.associative_scan((a_next, _flip_steps(w)), 0, _compose_pairs)
        decay, g = _flip_steps(decay), _flip_steps(g)
        end = tl.sum(tl.where(is_first_step, a * g, 0.0), 0)
        total = tl.sum(tl.where(is_first_step, a * decay, 0.0), 0)
        other_end, other_total = swap_runs(end), swap_runs(total)
        is_late = run_of_columns(a.shape[1], W) == 1
        between = tl.where(is_late, total, other_total) * r_in + tl.where(is_late, end, other_end)
        r_out = tl.where(is_late, other_total, total) * between
        r_out += tl.where(is_late, other_end, end)
        return g + decay * tl.where(is_late, r_in, between)[None, :], r_out


@triton.jit
def _compose_pairs(a1, x1, a2, x2):
    """Compose h -> a h + x of two runs of steps."""
    return a2 * a1, a2 * x1 + x2


@triton.jit
def _sum_channels(x, y, W: tl.constexpr):
    """Sum x and y (T, columns) over the channels, each lane ending with some of the sums.

    A thread's own channels first, then lanes, by a butterfly that halves the values at every
    exchange, instead of repeating all sums in all lanes. Returns (2 T W / lanes, lanes): see
    `_sum_steps` for what is where.
    """
    x, y = _sum_own_channels(x), _sum_own_channels(y)
    M: tl.constexpr = x.shape[1] // W // 2
    x = _exchange(x, y, M)
    for i in tl.static_range(1, 5):
        if M >> i > 0:
            upper, lower = _split_rows(x)
            x = _exchange(upper, lower, M >> i)
    return x


@triton.jit
def _sum_own_channels(x):
    """(T, columns) to (T, lanes)."""
    P: tl.constexpr = (x.shape[1] + 31) // 32
    if P > 1:
        x = tl.sum(tl.reshape(x, [x.shape[0], x.shape[1] // P, P]), 2)
    return x


@triton.jit
def _sum_steps(T: tl.constexpr, BD: tl.constexpr, W: tl.constexpr):
    """Step within the tile of each result of `_sum_channels`, and whether it is of y."""
    L: tl.constexpr = BD // ((BD + 31) // 32)
    R: tl.constexpr = 2 * T * W // L
    lane = tl.arange(0, L)[None, :]
    half = lane % (L // W // 2) * R + tl.arange(0, R)[:, None]
    return lane // (L // W) * T + half, lane % (L // W) >= L // W // 2


@triton.jit(do_not_specialize=UNSPECIALIZED + ["share_y", "stride_gB"])
def backward_kernel(
    p_gy, p_u, p_delta, p_A, p_B, p_C, p_D, p_bias, p_elapsed, p_gaps, p_routes, p_states, p_carry,
    p_gu, p_gdelta, p_gA, p_gB, p_gC, p_gD, p_gbias, p_gelapsed, p_sum_e2,
    stride_gb, stride_gk, stride_gl, stride_ub, stride_uk, stride_ul,
    stride_db, stride_dk, stride_dl, stride_eb, stride_ek, stride_el,
    stride_Bb, stride_Bk, stride_Bl, stride_Bn, stride_rb, stride_rk,
    stride_gB, stride_gdb, stride_gdk, stride_gdl,
    k, share_u, share_y, l, d, length, segment,
    N: tl.constexpr, T: tl.constexpr, BD: tl.constexpr,
    HAS_ROUTES: tl.constexpr, COMPLETE: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_ELAPSED: tl.constexpr, HAS_GAPS: tl.constexpr, SOFTPLUS: tl.constexpr,
    DENSE: tl.constexpr, WIDE: tl.constexpr, W: tl.constexpr, EARLY: tl.constexpr,
    SUMMARY: tl.constexpr,
):  # fmt: skip
    """Walk one segment from its end; p_carry: r of the step after it (in), of its first (out).

    T steps a tile, or with one state W runs of T; the state before each tile has been saved. With
    EARLY, for which a call has no elapsed times, a tile's rows are loaded one tile ahead. With
    SUMMARY only r and the sum of elapsed times are computed, for the carry across segments. share_u
    and share_y: routes that read the same tokens, or the same gradient of y.
    """
    num_d = tl.cdiv(d, BD // W)
    i_d = tl.program_id(0) % num_d
    i_bk = tl.program_id(0) // num_d
    i_u, i_y = (i_bk % k // share_u).to(tl.int64), (i_bk % k // share_y).to(tl.int64)
    i_b, i_k, i_bk = (i_bk // k).to(tl.int64), (i_bk % k).to(tl.int64), i_bk.to(tl.int64)
    i_seg, num_seg = tl.program_id(1), tl.cdiv(length, segment)
    if SUMMARY:
        i_seg += 1  # before the first one is nothing that would need its
    begin = tl.multiple_of(i_seg * segment, W * T)
    end = tl.minimum(begin + segment, length)
    num_tiles = tl.cdiv(end - begin, W * T)
    if DENSE:
        stride_ul, stride_dl, stride_el, stride_gl = d, d, d, d

    p_gy += i_b * stride_gb + i_y * stride_gk
    p_u += i_b * stride_ub + i_u * stride_uk
    p_delta += i_b * stride_db + i_k * stride_dk
    if HAS_ELAPSED:
        p_elapsed += i_b * stride_eb + i_k * stride_ek
    if HAS_GAPS:
        p_gaps += i_bk * stride_rk
    p_B += i_b * stride_Bb + i_k * stride_Bk
    p_C += i_b * stride_Bb + i_k * stride_Bk
    p_routes += i_b * stride_rb + i_k * stride_rk
    p_states += (i_bk * tl.cdiv(length, W * T) + begin // (W * T) + num_tiles - 1) * N * d
    p_carry += (i_bk * num_seg + i_seg) * N * d
    p_gA += (i_bk * num_seg + i_seg) * N * d
    p_gu += i_bk * l * d
    if HAS_ELAPSED:
        p_gelapsed += i_bk * l * d
    p_gdelta += i_b * stride_gdb + i_k * stride_gdk
    p_gB += i_d * stride_gB + i_bk * l * N
    p_gC += i_d * stride_gB + i_bk * l * N

    o_d = channel_offsets(i_d, BD, W)
    m_d = o_d < d
    bias = tl.zeros([BD], tl.float32)
    if HAS_BIAS:
        bias = tl.load(p_bias + i_k * d + o_d, mask=m_d, other=0.0).to(tl.float32) * LOG2E
    skip = tl.zeros([BD], tl.float32)
    if HAS_D:
        skip = tl.load(p_D + i_k * d + o_d, mask=m_d, other=0.0).to(tl.float32)
    p_A += i_k * N * d + o_d
    gD = tl.zeros([BD], tl.float32)
    gbias = tl.zeros([BD], tl.float32)
    A_n = tl.load(p_A, mask=m_d, other=0.0).to(tl.float32)
    r_in = tl.load(p_carry + o_d, mask=m_d, other=0.0)
    gA_n = tl.zeros([BD], tl.float32)

    EXACT: tl.constexpr = p_delta.dtype.element_ty == tl.float32
    o_t = step_offsets(T, W)
    o_step = steps_of_columns(T, BD, W)
    o_sum, is_C = _sum_steps(T, BD, W)
    sum_e2 = tl.zeros([BD], tl.float32)
    i_s = tl.multiple_of(begin + (num_tiles - 1) * (W * T), W * T)
    token, m_token = load_tokens(p_routes, i_s + o_t, end, l, HAS_ROUTES, COMPLETE, WIDE)
    if EARLY:
        row, m_row = to_columns(token, BD, W), to_columns(m_token, BD, W)
        delta_1 = load_rows(p_delta, row, m_row, o_d, m_d, stride_dl, 0.0)
        gy_1 = load_rows(p_gy, row, m_row, o_d, m_d, stride_gl, 0.0)
        if not SUMMARY:
            u_1 = load_rows(p_u, row, m_row, o_d, m_d, stride_ul, 0.0)
        i_1 = tile_before(i_s, begin, W * T)
        row_1, m_row_1 = load_token_rows(
            p_routes, i_1 + o_t, end, l, BD, W, HAS_ROUTES, COMPLETE, WIDE
        )
    for _ in range(num_tiles):
        i_1 = tile_before(i_s, begin, W * T)
        if EARLY:
            delta, gy = delta_1.to(tl.float32), gy_1
            delta_1 = load_rows(p_delta, row_1, m_row_1, o_d, m_d, stride_dl, 0.0)
            gy_1 = load_rows(p_gy, row_1, m_row_1, o_d, m_d, stride_gl, 0.0)
            if not SUMMARY:
                u = u_1.to(tl.float32)
                u_1 = load_rows(p_u, row_1, m_row_1, o_d, m_d, stride_ul, 0.0)
            i_2 = tile_before(i_1, begin, W * T)
            row_1, m_row_1 = load_token_rows(
                p_routes, i_2 + o_t, end, l, BD, W, HAS_ROUTES, COMPLETE, WIDE
            )
        else:
            row, m_row = load_token_rows(
                p_routes, i_s + o_t, end, l, BD, W, HAS_ROUTES, COMPLETE, WIDE
            )
            delta = load_rows(p_delta, row, m_row, o_d, m_d, stride_dl, 0.0).to(tl.float32)
            gy = load_rows(p_gy, row, m_row, o_d, m_d, stride_gl, 0.0)
            if HAS_ELAPSED:
                elapsed = load_rows(p_elapsed, row, m_row, o_d, m_d, stride_el, float("-inf"))
                elapsed = elapsed.to(tl.float32)
            if not SUMMARY:
                u = load_rows(p_u, row, m_row, o_d, m_d, stride_ul, 0.0).to(tl.float32)
        if HAS_GAPS:
            gaps = load_gaps(p_gaps, i_s + o_t, end, HAS_ROUTES, COMPLETE)
        if not SUMMARY:
            h0 = tl.load(p_states + o_d, mask=m_d, other=0.0).to(tl.float32)
        BC = scale_projections(load_projections(p_B, p_C, token * stride_Bl, m_token, 0, 1, 1))
        token_1, m_token_1 = load_tokens(p_routes, i_1 + o_t, end, l, HAS_ROUTES, COMPLETE, WIDE)
        exists = o_step < end - i_s
        dt2, slope = step_sizes(delta, bias, exists, SOFTPLUS, EXACT)
        gy = tl.where(exists, gy.to(tl.float32), 0.0)
        e2 = dt2
        if HAS_ELAPSED:
            e2, is_dt = elapsed_times(elapsed, dt2, exists)
        if HAS_GAPS:
            e2 = dt2 * to_columns(gaps, BD, W)
        if SUMMARY:
            sum_e2 += tl.sum(e2, 0)
        if not SUMMARY:
            token_sum, m_sum = load_tokens(
                p_routes, i_s + o_sum, end, l, HAS_ROUTES, COMPLETE, WIDE
            )
            m_sum = m_sum & (i_s + o_sum < end)
            p_gBC = tl.where(is_C, p_gC, p_gB) + token_sum * N
            du = dt2 * u
            gdu = tl.zeros([T, BD], tl.float32)  # <g, B>
            ge = tl.zeros([T, BD], tl.float32)
        for n in range(N):
            Bn, Cn = tl.split(BC)
            more = n < N - 1
            o_B = token * stride_Bl + (n + 1) * stride_Bn
            BC_1 = load_projections(p_B, p_C, o_B, m_token & more, 0, 1, 1)
            Bn, Cn = to_columns(Bn, BD, W), to_columns(Cn, BD, W)
            a = tl.exp2(e2 * A_n[None, :])
            g, r_out = _scan_back(a, gy * Cn, r_in, W)
            r_in = r_out
            if N > 1:
                tl.store(p_carry + n * d + o_d, r_out, mask=m_d)
                # Early enough for the next state. Before the store the compiler put them among the
                # loads of B and C from shared memory, and the kernel took a tenth longer.
                n_1 = tl.where(more, n + 1, 0)
                A_1 = tl.load(p_A + n_1 * d, mask=m_d, other=0.0).to(tl.float32)
                r_in = tl.load(p_carry + n_1 * d + o_d, mask=m_d, other=0.0)
                if not SUMMARY:
                    gA_n = tl.load(p_gA + n * d + o_d, mask=m_d, other=0.0)
            if not SUMMARY:
                h, h_prev, h_begin, h_end = scan_steps(a, du * Bn, h0, W)
                h0 = tl.load(p_states + (n + 1) * d + o_d, mask=m_d & more, other=0.0)
                h0 = h0.to(tl.float32)
                gBC = _sum_channels(g * du, gy * h, W) * tl.where(is_C, 1.0, LN2)
                tl.store(p_gBC + n, gBC, mask=m_sum)
                gdu += g * Bn
                ga = a * g * h_prev  # gradient of e A_n
                ge += ga * A_n[None, :]
                gA_n += tl.sum(ga * e2, 0) * LN2
                if N > 1:
                    tl.store(p_gA + n * d + o_d, gA_n, mask=m_d)
            if N > 1:
                A_n = A_1
            BC = scale_projections(BC_1)
        p_states -= N * d
        if N > 1:
            tl.debug_barrier()  # the next tile reads the carries and sums this one wrote
        if not SUMMARY:
            gdt = ge
            if HAS_ELAPSED:
                gdt = tl.where(is_dt, ge, 0.0)
            if HAS_GAPS:
                gdt = ge * to_columns(gaps, BD, W)
            gdt = (gdt + u * LOG2E * gdu) * slope
            gD += tl.sum(gy * u, 0)
            gbias += tl.sum(gdt, 0)
            row, m_row = load_token_rows(
                p_routes, i_s + o_t, end, l, BD, W, HAS_ROUTES, COMPLETE, WIDE
            )
            # Written so that the compiler does not keep the predicates of `exists` until here.
            mask = m_row & (i_s + o_step < end) & m_d[None, :]
            gu = dt2 * gdu + skip[None, :] * gy
            tl.store(p_gu + (row * d + o_d[None, :]), gu, mask=mask)
            tl.store(p_gdelta + (row * stride_gdl + o_d[None, :]), gdt, mask=mask)
            if HAS_ELAPSED:
                tl.store(p_gelapsed + (row * d + o_d[None, :]), ge, mask=mask)
        token, m_token = token_1, m_token_1
        i_s = tl.multiple_of(i_s - W * T, W * T)

    if W > 1:
        tl.static_assert(N == 1)
        sum_e2 += swap_runs(sum_e2)
        gA_n += swap_runs(gA_n)
        gD += swap_runs(gD)
        gbias += swap_runs(gbias)
    if N == 1:
        tl.store(p_carry + o_d, r_in, mask=m_d)
        if not SUMMARY:
            tl.store(p_gA + o_d, gA_n, mask=m_d)
    o_segment = (i_bk * num_seg + i_seg) * d + o_d
    if SUMMARY:
        tl.store(p_sum_e2 + o_segment, sum_e2, mask=m_d)
    else:
        tl.store(p_gD + o_segment, gD, mask=m_d)
        tl.store(p_gbias + o_segment, gbias, mask=m_d)
