"""Non-causal state-space duality (VSSD): all tokens gathered into one state, read out by each."""

from __future__ import annotations

from torch import Tensor

from ..ssd.checks import check_ssd_args, choose_implementation
from .reference import ssd_noncausal_reference
from .torch_impl import ssd_noncausal_torch

__all__ = ["ssd_noncausal"]

IMPLEMENTATIONS = {
    "auto": ssd_noncausal_torch,
    "reference": ssd_noncausal_reference,
    "torch": ssd_noncausal_torch,
}


def ssd_noncausal(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    *,
    dt_softplus: bool = True,
    implementation: str = "auto",
) -> Tensor:
    """Gather every token into one state a head, and let every token read the whole of it.

    For every image and head, with sums over the l tokens::

        w_t = -dt_t A                   dt_t = softplus(dt + dt_bias)
        S   = sum_t w_t B_t x_t^T       (n, p)
        y_t = S^T C_t + D x_t

    Nothing decays and there is no order among tokens: it is linear attention whose values are
    weighted by the step sizes.

    On every device it is two matrix products and no kernel of ours. Compiled, its elementwise work
    joins its neighbours: the weights what makes x, the skip term what reads y.

    Args:
        x: tokens (b, l, h, p), h heads of p channels. float32, bfloat16, float16 or float64, any
            strides.
        dt: step sizes before bias and softplus (b, l, h).
        A: decay rates, negative (h).
        B: input projection (b, l, g, n) in g groups, g a divisor of h. Head i uses group i mod g,
            where `ssd` gives a group to consecutive heads.
        C: output projection (b, l, g, n).
        D: skip weights (h), or None.
        dt_bias: added to dt (h), or None.
        dt_softplus: pass the step sizes through softplus.
        implementation: "auto" and "torch" are the matrix products, "reference" is a plain loop.

    Returns:
        y (b, l, h, p) in x's dtype. Differentiable in every tensor. Step sizes are float32, and
        sums accumulate in float32; what is multiplied with tokens, the state among it, has x's
        dtype. The state adds up all tokens: in float16 it can overflow where bfloat16 does not.

    Raises:
        ValueError: an argument has the wrong shape, dtype or device, naming it, what was expected
            and what came.

    Source: VSSD, arXiv 2407.18559, section 3.
    """
    others = {
        "dt": (dt, "blh"),
        "A": (A, "h"),
        "C": (C, "blgn"),
        "D": (D, "h"),
        "dt_bias": (dt_bias, "h"),
    }
    check_ssd_args(x, B, others)
    run = choose_implementation(IMPLEMENTATIONS, implementation)
    return run(x, dt, A, B, C, D, dt_bias, dt_softplus)
