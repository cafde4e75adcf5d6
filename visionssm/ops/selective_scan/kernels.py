"""Selective scan in Triton: forward, backward, routes read inside the kernels.

One program, a single warp, owns 32 channels of one (batch, route) pair and walks a segment of the
route in tiles of 16 steps, gathering token rows by the route. A thread has all steps of its channel
in registers and scans them by serial multiply-adds: no exchange between threads, no barriers. The
alignment hint in `_channel_offsets` is what makes the compiler choose that layout.

    forward, for each state index n, over the steps t of a tile:
        a_t = exp(e_t A_n),  x_t = dt_t u_t B_tn,  h_t = a_t h_(t-1) + x_t,  y_t += C_tn h_t

    backward, steps in reverse, with w_t = C_tn gy_t and r_t = a_t g_t (what step t-1 receives):
        r_t = a_t (r_(t+1) + w_t),  g_t = w_t + r_(t+1)
        gC_tn = sum_d gy_t h_t      gB_tn = sum_d g_t dt_t u_t
        gu_t += dt_t B_tn g_t       gdt_t += u_t B_tn g_t
        gA_n += e_t r_t h_(t-1)     ge_t += A_n r_t h_(t-1)
        gdelta_t = (gdt_t + (ge_t where e_t is dt_t)) sigmoid(delta_t + bias)

The elapsed time e_t is the step size dt_t unless the caller gives it, and in padding steps always.
Both scans also yield the value one step earlier (h_(t-1), r_(t+1)), see `_compose`. Times are kept
times log2(e), as exp2 wants them; B is kept times ln(2), which makes up for it.

What threads have in common is loaded once and shared: B and C of a tile's tokens. The forward pass
issues the loads of the next tile before it computes this one. The backward pass does not: it gains
nothing there, for the registers that it takes. gB and gC are sums over channels of 32 values a
tile, which a butterfly leaves spread over the lanes (`_sum_channels`).

When batch x routes x channels cannot fill the device, the length is split into segments: a first
pass computes each segment's end from a zero state and its total time, `carry_kernel` carries the
ends across segments (h_start' = exp(A sum e) h_start + end), the main pass starts from them.
The backward pass does the same with r from the other end.

Sums over channel blocks, batch and segments go through partial buffers and a reduction in a fixed
order: no atomics, the same bits every run. All arithmetic is float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _compose(a1, x1, p1, e1, a2, x2, p2, e2):
    """Compose h -> a h + x of two runs of steps; (p, e) is the same map without its last step.

    A single step has (p, e) = (1, -0): with constants the compiler drops their arithmetic, and
    adding -0 changes no value.
    """
    return a2 * a1, a2 * x1 + x2, p2 * a1, p2 * x1 + e2


@triton.jit
def _scan_steps(a, x, start, T: tl.constexpr):
    """h_t = a_t h_(t-1) + x_t over the steps of a tile, a and x (T, channels).

    Returns:
        all h_t, all h_(t-1), and the state after the last step (channels).
    """
    step = tl.arange(0, T)[:, None]
    x = tl.where(step == 0, a * start[None, :] + x, x)
    before = tl.where(step == 0, start[None, :], -0.0)
    one = tl.full(x.shape, 1.0, tl.float32)
    decay, h, decay_prev, h_prev = tl.associative_scan((a, x, one, before), 0, _compose)
    return h, h_prev, tl.sum(tl.where(step == T - 1, h, 0.0), 0)


@triton.jit
def _flip_steps(x):
    """Turn the steps round, (T, channels): one thread's registers, so this moves no data."""
    return tl.trans(tl.flip(tl.trans(x), 1))


@triton.jit
def _channel_offsets(i_d, BD: tl.constexpr):
    """Channels of the program. Claiming no more alignment than a thread's share keeps it there."""
    return tl.multiple_of(i_d * BD + tl.arange(0, BD), (BD + 31) // 32)


@triton.jit
def _softplus(x, EXACT: tl.constexpr):
    """max(x, 0) + log2(1 + e) with e = exp2(-|x|), and its derivative, a sigmoid.

    log2(1 + e) / e on [0, 1] is a polynomial, minimax in relative error: no logarithm, no special
    cases. 2e-7 in float32 for every x if EXACT, else 1.4e-6, below the rounding of 16-bit inputs.
    """
    e = tl.exp2(-tl.abs(x))
    if EXACT:
        p = 0.007549182046204805 * e - 0.04256706312298775
        p = p * e + 0.1128561943769455
        p = p * e - 0.19711896777153015
        p = p * e + 0.27564141154289246
        p = p * e - 0.35840848088264465
        p = p * e + 0.48069295287132263
        p = p * e - 0.7213401794433594
        p = p * e + 1.4426950216293335
    else:
        p = 0.020401185378432274 * e - 0.09579754620790482
        p = p * e + 0.2152845412492752
        p = p * e - 0.339089035987854
        p = p * e + 0.4776683747768402
        p = p * e - 0.7211594581604004
        p = p * e + 1.4426932334899902
    return tl.maximum(x, 0.0) + e * p, tl.exp2(tl.minimum(x, 0.0) - e * p)


@triton.jit
def _load_tokens(
    p_routes, o_s, begin, end, l,
    HAS_ROUTES: tl.constexpr, COMPLETE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Tokens of the steps o_s, and whether the segment has the step and the step a token."""
    m_token = (o_s >= begin) & (o_s < end)
    token = o_s
    if HAS_ROUTES:
        token = tl.load(p_routes + o_s, mask=m_token, other=-1)
        if not COMPLETE:
            m_token = (token >= 0) & (token < l)
    return token.to(tl.int64 if WIDE else tl.int32), m_token


@triton.jit
def _load_rows(p, token, m_token, o_d, m_d, stride, none):
    """(T, channels) of the tokens, `none` where there is no token."""
    return tl.load(
        p + (token[:, None] * stride + o_d[None, :]),
        mask=m_token[:, None] & m_d[None, :],
        other=none,
    )


@triton.jit
def _load_projections(p_B, p_C, o_B, m_token):
    """B and C of a state index for the tile's tokens, (T, 2).

    One load of 2 T values, shared by the threads: two loads of T would be made by every thread.
    """
    p = tl.where(tl.arange(0, 2)[None, :] == 0, p_B, p_C)
    return tl.load(p + o_B[:, None], mask=m_token[:, None], other=0.0)


@triton.jit
def _scale_projections(BC):
    """float32, and B times ln(2), for step sizes are times log2(e)."""
    return BC.to(tl.float32) * tl.where(tl.arange(0, 2)[None, :] == 0, LN2, 1.0)


@triton.jit
def _exchange(x, y, M: tl.constexpr):
    """Of lanes that differ in bit M the lower one gets the sum of both in x, the other in y."""
    lane = tl.arange(0, x.shape[1])[None, :]
    upper = (lane & M) != 0
    kept = tl.where(upper, y, x)
    sent = tl.where(upper, x, y)
    return kept + _swap_lanes(sent, M)


@triton.jit
def _swap_lanes(x, M: tl.constexpr):
    """Exchange the columns of x that differ in bit M of their index."""
    L: tl.constexpr = x.shape[1]
    pairs = tl.reshape(x.to(tl.int32, bitcast=True), [x.shape[0], L // (2 * M), 2, M])
    swapped = tl.xor_sum(pairs, 2)[:, :, None, :] ^ pairs  # a ^ b ^ a = b: one shuffle
    return tl.reshape(swapped, [x.shape[0], L]).to(tl.float32, bitcast=True)


@triton.jit
def _split_rows(x):
    """The upper and the lower half of the rows of x."""
    half: tl.constexpr = x.shape[0] // 2
    return tl.split(tl.permute(tl.reshape(x, [2, half, x.shape[1]]), (1, 2, 0)))


@triton.jit
def _sum_channels(x, y):
    """Sum x and y (T, channels) over the channels, each lane ending with some of the 2 T sums.

    A butterfly that halves the values at every exchange, instead of repeating all sums in all
    lanes. Returns (2 T / channels, channels): see `_sum_steps` for what is where.
    """
    M: tl.constexpr = x.shape[1] // 2
    x = _exchange(x, y, M)
    for i in tl.static_range(1, 5):
        if M >> i > 0:
            upper, lower = _split_rows(x)
            x = _exchange(upper, lower, M >> i)
    return x


@triton.jit
def _sum_steps(T: tl.constexpr, BD: tl.constexpr):
    """Step within the tile of each result of `_sum_channels`, and whether it is of y."""
    R: tl.constexpr = 2 * T // BD
    lane = tl.arange(0, BD)[None, :]
    return lane % (BD // 2) * R + tl.arange(0, R)[:, None], lane >= BD // 2


@triton.jit
def _step_sizes(
    delta, bias2, i_s, end,
    MASKED: tl.constexpr, SOFTPLUS: tl.constexpr, EXACT: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Step size times log2(e), zero where the step does not exist, and its derivative by delta."""
    dt2 = delta * LOG2E + bias2[None, :]
    slope = tl.full(dt2.shape, 1.0, tl.float32)
    if SOFTPLUS:
        dt2, slope = _softplus(dt2, EXACT)
    if MASKED:
        exists = (i_s + tl.arange(0, T) < end)[:, None]
        dt2 = tl.where(exists, dt2, 0.0)
        slope = tl.where(exists, slope, 0.0)
    return dt2, slope


@triton.jit
def _elapsed_times(elapsed, dt2):
    """Elapsed times times log2(e): step sizes where -inf says there is no token; and where."""
    is_dt = elapsed == float("-inf")
    return tl.where(is_dt, dt2, elapsed * LOG2E), is_dt


# Neither alignment nor masks depend on these: one kernel serves all their values.
_SIZES = ["k", "l"]


@triton.jit(do_not_specialize=_SIZES)
def forward_kernel(
    p_u, p_delta, p_A, p_B, p_C, p_D, p_bias, p_elapsed, p_routes, p_y, p_carry, p_states,
    p_sum_e2, stride_ub, stride_uk, stride_ul, stride_db, stride_dk, stride_dl,
    stride_eb, stride_ek, stride_el,
    stride_Bb, stride_Bk, stride_Bl, stride_Bn, stride_rb,
    k, l, d, length, segment,
    N: tl.constexpr, T: tl.constexpr, BD: tl.constexpr,
    HAS_ROUTES: tl.constexpr, COMPLETE: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_ELAPSED: tl.constexpr, SOFTPLUS: tl.constexpr, DENSE: tl.constexpr, WIDE: tl.constexpr,
    STORE_Y: tl.constexpr, STORE_STATES: tl.constexpr, STORE_SUM_E: tl.constexpr,
):  # fmt: skip
    """Scan one segment from the state in p_carry, leaving the segment's last state there."""
    num_d = tl.cdiv(d, BD)
    i_d = tl.program_id(0) % num_d
    i_bk = (tl.program_id(0) // num_d).to(tl.int64)
    i_b, i_k = i_bk // k, i_bk % k
    i_seg, num_seg = tl.program_id(1), tl.num_programs(1)
    begin = i_seg * segment
    end = tl.minimum(begin + segment, length)
    if DENSE:  # rows of the inputs are adjacent, as y's: one offset serves all
        stride_ul, stride_dl, stride_el = d, d, d

    p_u += i_b * stride_ub + i_k * stride_uk
    p_delta += i_b * stride_db + i_k * stride_dk
    if HAS_ELAPSED:
        p_elapsed += i_b * stride_eb + i_k * stride_ek
    p_B += i_b * stride_Bb + i_k * stride_Bk
    p_C += i_b * stride_Bb + i_k * stride_Bk
    p_routes += i_b * stride_rb + i_k * length
    p_y += i_bk * l * d
    p_carry += (i_bk * num_seg + i_seg) * N * d
    p_states += (i_bk * tl.cdiv(length, T) + begin // T) * N * d

    o_d = _channel_offsets(i_d, BD)
    m_d = o_d < d
    bias = tl.zeros([BD], tl.float32)
    if HAS_BIAS:
        bias = tl.load(p_bias + i_k * d + o_d, mask=m_d, other=0.0).to(tl.float32) * LOG2E
    if HAS_D:
        skip = tl.load(p_D + i_k * d + o_d, mask=m_d, other=0.0).to(tl.float32)
    p_A += (i_k * d + o_d) * N
    sum_e2 = tl.zeros([BD], tl.float32)
    A_n = tl.load(p_A, mask=m_d, other=0.0).to(tl.float32)
    state = tl.load(p_carry + o_d, mask=m_d, other=0.0)

    MASKED: tl.constexpr = not SOFTPLUS or (HAS_ROUTES and not COMPLETE)
    EXACT: tl.constexpr = p_delta.dtype.element_ty == tl.float32
    # Where only steps past the end are masked, minus infinity gives them a step size of zero.
    none: tl.constexpr = 0.0 if MASKED else float("-inf")
    o_t = tl.arange(0, T)
    token, m_token = _load_tokens(p_routes, begin + o_t, begin, end, l, HAS_ROUTES, COMPLETE, WIDE)
    delta = _load_rows(p_delta, token, m_token, o_d, m_d, stride_dl, none).to(tl.float32)
    u = _load_rows(p_u, token, m_token, o_d, m_d, stride_ul, 0.0).to(tl.float32)
    if HAS_ELAPSED:
        elapsed = _load_rows(p_elapsed, token, m_token, o_d, m_d, stride_el, float("-inf"))
        elapsed = elapsed.to(tl.float32)
    BC = _scale_projections(_load_projections(p_B, p_C, token * stride_Bl, m_token))
    token_1, m_token_1 = _load_tokens(
        p_routes, begin + T + o_t, begin, end, l, HAS_ROUTES, COMPLETE, WIDE
    )
    for i_s in range(begin, end, T):
        row, m_row = _load_tokens(
            p_routes, i_s + T + o_t, begin, end, l, HAS_ROUTES, COMPLETE, WIDE
        )
        delta_1 = _load_rows(p_delta, row, m_row, o_d, m_d, stride_dl, none)
        u_1 = _load_rows(p_u, row, m_row, o_d, m_d, stride_ul, 0.0)
        if HAS_ELAPSED:
            elapsed_1 = _load_rows(p_elapsed, row, m_row, o_d, m_d, stride_el, float("-inf"))
        token_2, m_token_2 = _load_tokens(
            p_routes, i_s + 2 * T + o_t, begin, end, l, HAS_ROUTES, COMPLETE, WIDE
        )
        dt2, slope = _step_sizes(delta, bias, i_s, end, MASKED, SOFTPLUS, EXACT, T)
        e2 = dt2
        if HAS_ELAPSED:
            e2, is_dt = _elapsed_times(elapsed, dt2)
        du = dt2 * u
        y = tl.zeros([T, BD], tl.float32)
        if HAS_D:
            y = skip[None, :] * u
        if STORE_SUM_E:
            sum_e2 += tl.sum(e2, 0)
        for n in range(N):
            Bn, Cn = tl.split(BC)
            last = n == N - 1
            o_B = tl.where(last, token_1 * stride_Bl, token * stride_Bl + (n + 1) * stride_Bn)
            BC_1 = _load_projections(p_B, p_C, o_B, tl.where(last, m_token_1, m_token))
            if N > 1:  # of the next state index, after the last of the next tile's first
                n_1 = tl.where(last, 0, n + 1)
                A_1 = tl.load(p_A + n_1, mask=m_d, other=0.0).to(tl.float32)
                state_1 = tl.load(p_carry + n_1 * d + o_d, mask=m_d, other=0.0)
            if STORE_STATES:
                tl.store(p_states + n * d + o_d, state, mask=m_d)
            a = tl.exp2(e2 * A_n[None, :])
            h, h_prev, state = _scan_steps(a, du * Bn[:, None], state, T)
            if N > 1:
                tl.store(p_carry + n * d + o_d, state, mask=m_d)
                A_n, state = A_1, state_1
            if STORE_Y:
                y += h * Cn[:, None]
            BC = _scale_projections(BC_1)
        if N > 1:
            tl.debug_barrier()  # the next tile reads the states this one wrote
        if STORE_Y:
            row, m_row = _load_tokens(
                p_routes, i_s + o_t, begin, end, l, HAS_ROUTES, COMPLETE, WIDE
            )
            mask = m_row[:, None] & m_d[None, :]
            tl.store(p_y + (row[:, None] * d + o_d[None, :]), y, mask=mask)
        p_states += N * d
        token, m_token = token_1, m_token_1
        delta, u = delta_1.to(tl.float32), u_1.to(tl.float32)
        if HAS_ELAPSED:
            elapsed = elapsed_1.to(tl.float32)
        token_1, m_token_1 = token_2, m_token_2

    if N == 1:
        tl.store(p_carry + o_d, state, mask=m_d)
    if STORE_SUM_E:
        tl.store(p_sum_e2 + (i_bk * num_seg + i_seg) * d + o_d, sum_e2, mask=m_d)


@triton.jit(do_not_specialize=["k", "num_seg"])
def carry_kernel(
    p_carry, p_sum_e2, p_A, p_first, k, d, num_seg,
    N: tl.constexpr, T: tl.constexpr, BD: tl.constexpr,
    REVERSE: tl.constexpr, HAS_FIRST: tl.constexpr,
):  # fmt: skip
    """Turn segment ends (from zero) into segment starts, in place, one state index a program."""
    num_d = tl.cdiv(d, BD)
    i_d = tl.program_id(0) % num_d
    i_bk = (tl.program_id(0) // num_d).to(tl.int64)
    n = tl.program_id(1)
    o_d = _channel_offsets(i_d, BD)
    m_d = o_d < d
    A_n = tl.load(p_A + ((i_bk % k) * d + o_d) * N + n, mask=m_d, other=0.0).to(tl.float32)
    state = tl.zeros([BD], tl.float32)
    if HAS_FIRST:
        state = tl.load(p_first + (i_bk * N + n) * d + o_d, mask=m_d, other=0.0)
    for i in range(0, num_seg, T):
        o_seg = i + tl.arange(0, T)
        mask = (o_seg < num_seg)[:, None] & m_d[None, :]
        o_seg = i_bk * num_seg + (num_seg - 1 - o_seg if REVERSE else o_seg)
        p_end = p_carry + (o_seg * N + n)[:, None] * d + o_d[None, :]
        end = tl.load(p_end, mask=mask, other=0.0)
        sum_e2 = tl.load(p_sum_e2 + o_seg[:, None] * d + o_d[None, :], mask=mask, other=0.0)
        after, before, state = _scan_steps(tl.exp2(sum_e2 * A_n[None, :]), end, state, T)
        tl.store(p_end, before, mask=mask)


@triton.jit(do_not_specialize=_SIZES)
def backward_kernel(
    p_gy, p_u, p_delta, p_A, p_B, p_C, p_D, p_bias, p_elapsed, p_routes, p_states, p_carry,
    p_gu, p_gdelta, p_gA, p_gB, p_gC, p_gD, p_gbias, p_gelapsed, p_sum_e2,
    stride_gb, stride_gk, stride_gl, stride_ub, stride_uk, stride_ul,
    stride_db, stride_dk, stride_dl, stride_eb, stride_ek, stride_el,
    stride_Bb, stride_Bk, stride_Bl, stride_Bn, stride_rb,
    stride_gB, stride_gdb, stride_gdk, stride_gdl,
    k, l, d, length, segment,
    N: tl.constexpr, T: tl.constexpr, BD: tl.constexpr,
    HAS_ROUTES: tl.constexpr, COMPLETE: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_ELAPSED: tl.constexpr, SOFTPLUS: tl.constexpr, DENSE: tl.constexpr, WIDE: tl.constexpr,
    SUMMARY: tl.constexpr,
):  # fmt: skip
    """Walk one segment from its end; p_carry: r of the step after it (in), of its first (out).

    With SUMMARY only r and the sum of elapsed times are computed, for the carry across segments.
    """
    num_d = tl.cdiv(d, BD)
    i_d = tl.program_id(0) % num_d
    i_bk = (tl.program_id(0) // num_d).to(tl.int64)
    i_b, i_k = i_bk // k, i_bk % k
    i_seg, num_seg = tl.program_id(1), tl.num_programs(1)
    begin = i_seg * segment
    end = tl.minimum(begin + segment, length)
    num_tiles = tl.cdiv(end - begin, T)
    if DENSE:
        stride_ul, stride_dl, stride_el, stride_gl = d, d, d, d

    p_gy += i_b * stride_gb + i_k * stride_gk
    p_u += i_b * stride_ub + i_k * stride_uk
    p_delta += i_b * stride_db + i_k * stride_dk
    if HAS_ELAPSED:
        p_elapsed += i_b * stride_eb + i_k * stride_ek
    p_B += i_b * stride_Bb + i_k * stride_Bk
    p_C += i_b * stride_Bb + i_k * stride_Bk
    p_routes += i_b * stride_rb + i_k * length
    p_states += (i_bk * tl.cdiv(length, T) + begin // T + num_tiles - 1) * N * d
    p_carry += (i_bk * num_seg + i_seg) * N * d
    p_gA += (i_bk * num_seg + i_seg) * N * d
    p_gu += i_bk * l * d
    if HAS_ELAPSED:
        p_gelapsed += i_bk * l * d
    p_gdelta += i_b * stride_gdb + i_k * stride_gdk
    p_gB += i_d * stride_gB + i_bk * l * N
    p_gC += i_d * stride_gB + i_bk * l * N

    o_d = _channel_offsets(i_d, BD)
    m_d = o_d < d
    bias = tl.zeros([BD], tl.float32)
    if HAS_BIAS:
        bias = tl.load(p_bias + i_k * d + o_d, mask=m_d, other=0.0).to(tl.float32) * LOG2E
    skip = tl.zeros([BD], tl.float32)
    if HAS_D:
        skip = tl.load(p_D + i_k * d + o_d, mask=m_d, other=0.0).to(tl.float32)
    p_A += (i_k * d + o_d) * N
    gD = tl.zeros([BD], tl.float32)
    gbias = tl.zeros([BD], tl.float32)
    A_n = tl.load(p_A, mask=m_d, other=0.0).to(tl.float32)
    r_in = tl.load(p_carry + o_d, mask=m_d, other=0.0)
    gA_n = tl.zeros([BD], tl.float32)

    MASKED: tl.constexpr = not SOFTPLUS or (HAS_ROUTES and not COMPLETE)
    EXACT: tl.constexpr = p_delta.dtype.element_ty == tl.float32
    # Where only steps past the end are masked, minus infinity gives them a step size of zero.
    none: tl.constexpr = 0.0 if MASKED else float("-inf")
    o_t = tl.arange(0, T)
    o_sum, is_C = _sum_steps(T, BD)
    sum_e2 = tl.zeros([BD], tl.float32)
    i_s = begin + (num_tiles - 1) * T
    token, m_token = _load_tokens(p_routes, i_s + o_t, begin, end, l, HAS_ROUTES, COMPLETE, WIDE)
    for _ in range(num_tiles):
        row, m_row = _load_tokens(p_routes, i_s + o_t, begin, end, l, HAS_ROUTES, COMPLETE, WIDE)
        delta = _load_rows(p_delta, row, m_row, o_d, m_d, stride_dl, none).to(tl.float32)
        gy = _load_rows(p_gy, row, m_row, o_d, m_d, stride_gl, 0.0).to(tl.float32)
        if HAS_ELAPSED:
            elapsed = _load_rows(p_elapsed, row, m_row, o_d, m_d, stride_el, float("-inf"))
            elapsed = elapsed.to(tl.float32)
        if not SUMMARY:
            u = _load_rows(p_u, row, m_row, o_d, m_d, stride_ul, 0.0).to(tl.float32)
            h0 = tl.load(p_states + o_d, mask=m_d, other=0.0)
        BC = _scale_projections(_load_projections(p_B, p_C, token * stride_Bl, m_token))
        token_1, m_token_1 = _load_tokens(
            p_routes, i_s - T + o_t, begin, end, l, HAS_ROUTES, COMPLETE, WIDE
        )
        dt2, slope = _step_sizes(delta, bias, i_s, end, MASKED, SOFTPLUS, EXACT, T)
        e2 = dt2
        if HAS_ELAPSED:
            e2, is_dt = _elapsed_times(elapsed, dt2)
        if SUMMARY:
            sum_e2 += tl.sum(e2, 0)
        if not SUMMARY:
            token_sum, m_sum = _load_tokens(
                p_routes, i_s + o_sum, begin, end, l, HAS_ROUTES, COMPLETE, WIDE
            )
            p_gBC = tl.where(is_C, p_gC, p_gB) + token_sum * N
            du = dt2 * u
            gdu = tl.zeros([T, BD], tl.float32)  # <g, B>
            ge = tl.zeros([T, BD], tl.float32)
        for n in range(N):
            Bn, Cn = tl.split(BC)
            more = n < N - 1
            if N > 1:  # loaded well before it is needed, as in the forward pass
                n_1 = tl.where(more, n + 1, 0)
                A_1 = tl.load(p_A + n_1, mask=m_d, other=0.0).to(tl.float32)
                r_1 = tl.load(p_carry + n_1 * d + o_d, mask=m_d, other=0.0)
                if not SUMMARY:
                    gA_n = tl.load(p_gA + n * d + o_d, mask=m_d, other=0.0)
            o_B = token * stride_Bl + (n + 1) * stride_Bn
            BC_1 = _load_projections(p_B, p_C, o_B, m_token & more)
            w = gy * Cn[:, None]
            a = tl.exp2(e2 * A_n[None, :])
            r, r_next, r_out = _scan_steps(_flip_steps(a), _flip_steps(a * w), r_in, T)
            r_in = r_out
            if N > 1:
                tl.store(p_carry + n * d + o_d, r_out, mask=m_d)
                r_in = r_1
            if not SUMMARY:
                r, r_next = _flip_steps(r), _flip_steps(r_next)
                h, h_prev, h_end = _scan_steps(a, du * Bn[:, None], h0, T)
                h0 = tl.load(p_states + (n + 1) * d + o_d, mask=m_d & more, other=0.0)
                g = w + r_next
                gBC = _sum_channels(g * du, gy * h) * tl.where(is_C, 1.0, LN2)
                tl.store(p_gBC + n, gBC, mask=m_sum)
                gdu += g * Bn[:, None]
                ga = r * h_prev  # gradient of e A_n
                ge += ga * A_n[None, :]
                gA_n += tl.sum(ga * e2, 0)
                if N > 1:
                    tl.store(p_gA + n * d + o_d, gA_n, mask=m_d)
            if N > 1:
                A_n = A_1
            BC = _scale_projections(BC_1)
        p_states -= N * d
        if N > 1:
            tl.debug_barrier()  # the next tile reads the carries and sums this one wrote
        if not SUMMARY:
            gdt = ge
            if HAS_ELAPSED:
                gdt = tl.where(is_dt, ge, 0.0)
            gdt = (gdt + u * LOG2E * gdu) * slope
            gD += tl.sum(gy * u, 0)
            gbias += tl.sum(gdt, 0)
            row, m_row = _load_tokens(
                p_routes, i_s + o_t, begin, end, l, HAS_ROUTES, COMPLETE, WIDE
            )
            mask = m_row[:, None] & m_d[None, :]
            gu = dt2 * gdu + skip[None, :] * gy
            tl.store(p_gu + (row[:, None] * d + o_d[None, :]), gu, mask=mask)
            tl.store(p_gdelta + (row[:, None] * stride_gdl + o_d[None, :]), gdt, mask=mask)
            if HAS_ELAPSED:
                tl.store(p_gelapsed + (row[:, None] * d + o_d[None, :]), ge, mask=mask)
        token, m_token = token_1, m_token_1
        i_s -= T

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
