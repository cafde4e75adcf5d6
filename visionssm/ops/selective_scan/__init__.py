"""Selective scan (Mamba-1) over routes: the operation every backbone here is built on."""

from __future__ import annotations

from torch import Tensor

from ..dispatch import check_implementation
from .channel_first import selective_scan_fn
from .checks import check_selective_scan_args
from .op import selective_scan_op
from .reference import selective_scan_reference

__all__ = ["selective_scan", "selective_scan_fn"]


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    delta_softplus: bool = True,
    elapsed: Tensor | None = None,
    gaps: Tensor | None = None,
    routes: Tensor | None = None,
    reduce: str = "none",
    complete: bool = False,
    return_last_state: bool = False,
    implementation: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan tokens along routes with an input-dependent linear recurrence.

    For every route k, with t counting its steps and all tensors read at token ``routes[k, t]``::

        dt_t = softplus(delta_t + delta_bias)
        h_t  = exp(e_t A) h_(t-1) + dt_t B_t u_t         h_0 = 0, one (d, n) state a route
        y_t  = <C_t, h_t> + D u_t                        written to the same token's row

    where e_t, the time since the route's previous step, is dt_t unless `elapsed` or `gaps` says
    otherwise.

    Letters: b batch, k routes, l tokens, d channels, n state size, s steps of a route.

    Args:
        u: tokens (b, p, l, d), p dividing k: each is read by k / p consecutive routes. (b, k, l, d)
            where every route has its own, (b, 1, l, d) where all read the same. float32,
            bfloat16 or float16 (float64 outside of Triton), any strides; u, delta, B and C may
            differ in dtype.
        delta: step sizes before bias and softplus (b, k, l, d), in token order.
        A: decay rates (k, d, n), real and negative for a stable scan; n from 1 to 64.
        B: input projection (b, k, l, n), in token order.
        C: output projection (b, k, l, n), in token order.
        D: skip weight (k, d).
        delta_bias: added to delta (k, d).
        delta_softplus: apply softplus to the biased step size (linear above 20).
        elapsed: time that passes from the previous step of the route up to and including this one
            (b, k, l, d), in token order; at least 0 (not checked), no bias or softplus is applied.
            Where a route leaves out tokens, the sum of the step sizes since the last one visited
            decays the state as if they had been visited without input. A padding step's is its dt.
        gaps: number of step sizes that pass in a step instead of one, e_t = gaps_t dt_t (b, k, s),
            in the order of the route; at least 0 (not checked), any real floating dtype, int32 or
            int64. Where a route leaves out tokens, the positions since the last one visited: as if
            those had this token's step size. In place of `elapsed`, it spares a (b, k, l, d)
            tensor; it has no gradient.
        routes: row-major token index visited at each step, int32 or int64, (k, s) or, a set per
            image, (b, k, s). A route visits a token at most once. A step of -1 is padding: no input
            and no output, but time passes (delta = 0 before the bias). None visits 0..l-1.
        reduce: "none" gives one output a route; "shared" adds those that read the same tokens, and
            "sum" all, at each token. Triton adds outputs that are rounded to u's dtype.
        complete: the caller's promise that routes are permutations: s = l, and no padding.
            Without it, rows that no step visits are filled with zeros at the cost of a write, and
            on CUDA indices are checked as they are read.
        return_last_state: also return the state after the last step.
        implementation: "auto" (Triton on CUDA, Numba on CPUs where it is installed, chunked PyTorch
            elsewhere and for float64), or "triton", "numba", "torch", "reference" by name.

    Returns:
        y (b, k, l, d), with ``reduce="shared"`` (b, p, l, d), or with ``reduce="sum"`` (b, l, d),
        in u's dtype. With ``return_last_state`` the tuple (y, last_state), last_state (b, k, d, n)
        float32.
        State, decay and arithmetic are float32 whatever the input dtype; for the backward pass
        Triton keeps every 16th state, rounded to bfloat16 if u is and n is above 4, and, where they
        would take more than 32 bytes a channel, computes them again. Differentiable in every
        tensor but gaps (once and in reverse mode; the reference twice, and forward); the same input
        gives the same bits.

    Raises:
        ValueError: an argument has the wrong shape, dtype or device, naming it, what was expected
            and what came; gaps requires a gradient, or comes beside elapsed; the named
            implementation does not take the device or dtype. Route indices are
            checked on CPU; on CUDA, where looking would stall the device, an index outside [0, l)
            acts as a padding step.
        ImportError: implementation "numba" is asked for, and Numba is missing.
        NotImplementedError: a second or forward-mode derivative is asked for.

    Source: Mamba, arXiv 2312.00752, equations 2 and 4; routes: VMamba, arXiv 2401.10166, section 4.
    """
    check_selective_scan_args(
        u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, reduce, complete
    )
    check_implementation(implementation, has_numba=True)
    if implementation == "reference":
        y, last_state = selective_scan_reference(
            u, delta, A, B, C, D, delta_bias,
            delta_softplus=delta_softplus, elapsed=elapsed, gaps=gaps, routes=routes, reduce=reduce,
        )  # fmt: skip
    else:
        outputs = {"none": delta.shape[1], "shared": u.shape[1], "sum": 1}[reduce]
        y, last_state = selective_scan_op(
            u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes,
            delta_softplus, outputs, complete, implementation,
        )  # fmt: skip
        y = y.squeeze(1) if reduce == "sum" else y
    return (y, last_state) if return_last_state else y
