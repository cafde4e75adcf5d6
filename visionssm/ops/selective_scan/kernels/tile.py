"""What the kernels share: loading a tile of steps, step sizes, the scan along time."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# Neither alignment nor masks depend on these: stages of a model share kernels.
UNSPECIALIZED = ["k", "share_u", "l", "stride_Bb", "stride_Bk", "stride_Bl"]


@triton.jit
def _compose(a1, x1, p1, e1, a2, x2, p2, e2):
    """Compose h -> a h + x of two runs of steps; (p, e) is the same map without its last step.

    A single step has (p, e) = (1, -0): with constants the compiler drops their arithmetic, and
    adding -0 changes no value.
    """
    return a2 * a1, a2 * x1 + x2, p2 * a1, p2 * x1 + e2


@triton.jit
def scan_steps(a, x, start, W: tl.constexpr):
    """h_t = a_t h_(t-1) + x_t over the steps of a tile, a and x (T, columns).

    Columns are W runs of steps, one after the other, each of all channels.

    Returns:
        all h_t, all h_(t-1), and (columns) the states that runs start from and that the next tile
        does, which is there in all runs of a channel.
    """
    T: tl.constexpr = x.shape[0]
    step = tl.arange(0, T)[:, None]
    if W == 1:
        first_start = start
    else:
        is_first = run_of_columns(x.shape[1], W) == 0
        first_start = tl.where(is_first, start, 0.0)
    x = tl.where(step == 0, a * first_start[None, :] + x, x)
    minus_zero = tl.zeros(x.shape, tl.float32) * -1.0  # of a literal the sign would be lost
    before = tl.where(step == 0, first_start[None, :], minus_zero)
    one = tl.full(x.shape, 1.0, tl.float32)
    decay, h, decay_prev, h_prev = tl.associative_scan((a, x, one, before), 0, _compose)
    end = tl.sum(tl.where(step == T - 1, h, 0.0), 0)
    begin, after = first_start, end
    if W > 1:
        tl.static_assert(W == 2)
        # Each run has gone from zero, the first from its start: the other's end is all it lacks.
        total = tl.sum(tl.where(step == T - 1, decay, 0.0), 0)
        other_end, other_total = swap_runs(end), swap_runs(total)
        carried = tl.where(is_first, 0.0, other_end)
        h += decay * carried[None, :]
        h_prev += decay_prev * carried[None, :]
        begin = first_start + carried
        after = tl.where(is_first, other_total * end + other_end, total * other_end + end)
    return h, h_prev, begin, after


@triton.jit
def run_of_columns(BD: tl.constexpr, W: tl.constexpr):
    """Run of steps of each of BD columns."""
    return tl.arange(0, BD) // (BD // W)


@triton.jit
def swap_runs(x):
    """Exchange the two runs' values (columns)."""
    return tl.reshape(swap_lanes(x[None, :], x.shape[0] // 2), [x.shape[0]])


@triton.jit
def swap_lanes(x, M: tl.constexpr):
    """Exchange the columns of x that differ in bit M of their index."""
    L: tl.constexpr = x.shape[1]
    pairs = tl.reshape(x.to(tl.int32, bitcast=True), [x.shape[0], L // (2 * M), 2, M])
    swapped = tl.xor_sum(pairs, 2)[:, :, None, :] ^ pairs  # a ^ b ^ a = b: one shuffle
    return tl.reshape(swapped, [x.shape[0], L]).to(tl.float32, bitcast=True)


@triton.jit
def tile_steps(i_s, o_t, end, W: tl.constexpr, TS: tl.constexpr):
    """Steps of the tile at i_s, none beyond a table of routes, which fills multiples of TS."""
    if o_t.shape[0] * W <= TS:
        return i_s + o_t
    else:
        return tl.minimum(i_s + o_t, end - 1)


@triton.jit
def step_offsets(T: tl.constexpr, W: tl.constexpr):
    """Steps of a tile: (T), or (T, W) in W runs."""
    if W == 1:
        return tl.arange(0, T)
    else:
        return tl.arange(0, T)[:, None] + T * tl.arange(0, W)[None, :]


@triton.jit
def to_columns(x, BD: tl.constexpr, W: tl.constexpr):
    """Values of the steps, (T) or (T, W), as every column of a tile sees them, (T, 1 or BD)."""
    if W == 1:
        return x[:, None]
    else:
        x = tl.broadcast_to(x[:, :, None], [x.shape[0], W, BD // W])
        # Without the hint rows would not seem to lie along the columns.
        return tl.max_constancy(tl.reshape(x, [x.shape[0], BD]), [1, BD // W])


@triton.jit
def steps_of_columns(T: tl.constexpr, BD: tl.constexpr, W: tl.constexpr):
    """Step within the tile of each value, (T, 1 or BD)."""
    if W == 1:
        return tl.arange(0, T)[:, None]
    else:
        return tl.arange(0, T)[:, None] + T * run_of_columns(BD, W)[None, :]


@triton.jit
def channel_offsets(i_d, BD: tl.constexpr, W: tl.constexpr):
    """Channels of the columns. Claiming no more alignment than a thread's share keeps it there."""
    o_d = tl.arange(0, BD) if W == 1 else tl.arange(0, BD) % (BD // W)
    return tl.multiple_of(i_d * (BD // W) + o_d, (BD + 31) // 32)


@triton.jit
def softplus(x, EXACT: tl.constexpr):
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
def load_tokens(
    p_routes, o_s, end, l,
    HAS_ROUTES: tl.constexpr, COMPLETE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Tokens of the steps o_s, and whether they have one: padding steps have none.

    Without padding, steps from `end` on have the last step's token, of which complete routes have
    enough to fill a run: loads then need no masks, and a thread has registers for a few predicates
    only. Their step size is zero, so the state stays and the output is the last step's again.
    """
    if HAS_ROUTES and not COMPLETE:
        token = tl.load(p_routes + o_s, mask=o_s < end, other=-1)
        m_token = (token >= 0) & (token < l)
    else:
        token = tl.load(p_routes + o_s) if HAS_ROUTES else tl.minimum(o_s, end - 1)
        m_token = tl.full(o_s.shape, True, tl.int1)
    return token.to(tl.int64 if WIDE else tl.int32), m_token


@triton.jit
def load_token_rows(
    p_routes, o_s, end, l, BD: tl.constexpr, W: tl.constexpr,
    HAS_ROUTES: tl.constexpr, COMPLETE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The same of the steps (T) or (T, W) of a tile as every column sees them, (T, 1 or BD)."""
    token, m_token = load_tokens(p_routes, o_s, end, l, HAS_ROUTES, COMPLETE, WIDE)
    return to_columns(token, BD, W), to_columns(m_token, BD, W)


@triton.jit
def tile_from(i_s, end, T: tl.constexpr):
    """First step of the tile at i_s, or of the last one before `end`."""
    return tl.multiple_of(tl.minimum(i_s, (end - 1) // T * T), T)


@triton.jit
def tile_before(i_s, begin, T: tl.constexpr):
    """First step of the tile before the one at i_s, or of the first one."""
    return tl.multiple_of(tl.maximum(i_s - T, begin), T)


@triton.jit
def load_rows(p, row, m_row, o_d, m_d, stride, none):
    """(T, columns) of the tokens (T, 1 or columns), `none` where there is no token."""
    return tl.load(p + (row * stride + o_d[None, :]), mask=m_row & m_d[None, :], other=none)


@triton.jit
def load_gaps(p, o_s, end, HAS_ROUTES: tl.constexpr, COMPLETE: tl.constexpr):
    """Step sizes that pass in steps (T, [W]), float32; what steps from `end` on have is no matter.

    As many of them as of complete routes fill a run: a thread loads them as a vector.
    """
    if HAS_ROUTES and COMPLETE:
        return tl.load(p + o_s)
    else:
        return tl.load(p + tl.minimum(o_s, end - 1))


@triton.jit
def load_projections(p_B, p_C, o_token, m_token, stride_n, N: tl.constexpr, NP: tl.constexpr):
    """B and C of N state indices for a tile's tokens, (..., 2 NP), in turns; zeros from N to NP.

    One load, whose values the threads then share: by two loads every thread would make them all.
    """
    o = tl.arange(0, 2 * NP)
    p = tl.where(o % 2 == 0, p_B, p_C) + o // 2 * stride_n
    mask = tl.expand_dims(m_token, -1) & (o // 2 < N)
    return tl.load(p + tl.expand_dims(o_token, -1), mask=mask, other=0.0)


@triton.jit
def scale_projections(BC):
    """float32, and B times ln(2), for step sizes are times log2(e)."""
    is_B = tl.arange(0, BC.shape[-1]) % 2 == 0
    return BC.to(tl.float32) * tl.where(is_B, LN2, 1.0)


@triton.jit
def step_sizes(delta, bias2, exists, SOFTPLUS: tl.constexpr, EXACT: tl.constexpr):
    """Step size times log2(e), zero where the step does not exist, and its derivative by delta."""
    if SOFTPLUS:  # of minus infinity both are zero
        return softplus(tl.where(exists, delta * LOG2E + bias2[None, :], float("-inf")), EXACT)
    slope = tl.where(exists, tl.full(delta.shape, 1.0, tl.float32), 0.0)
    return slope * (delta * LOG2E + bias2[None, :]), slope


@triton.jit
def elapsed_times(elapsed, dt2, exists):
    """Elapsed times times log2(e): step sizes where -inf says there is no token; and where."""
    is_dt = (elapsed == float("-inf")) | ~exists
    return tl.where(is_dt, dt2, elapsed * LOG2E), is_dt
