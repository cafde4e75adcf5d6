"""State-space duality (Mamba-2): the scan with one decay a head, as matrix products of chunks."""

from __future__ import annotations

from torch import Tensor

from .checks import check_ssd_args, choose_implementation
from .reference import ssd_reference
from .torch_impl import ssd_torch

__all__ = ["ssd"]

IMPLEMENTATIONS = {"auto": ssd_torch, "reference": ssd_reference, "torch": ssd_torch}


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    z: Tensor | None = None,
    *,
    dt_softplus: bool = True,
    dt_limit: tuple[float, float] | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    implementation: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan tokens in their order with a state of p x n numbers a head, and one decay for all.

    For every image and head, from S_0 = `initial_states` or zero::

        dt_t = clamp(softplus(dt + dt_bias), *dt_limit)
        S_t  = exp(dt_t A) S_(t-1) + dt_t x_t B_t^T      (p, n)
        y_t  = (S_t C_t + D x_t) silu(z_t)

    Args:
        x: tokens (b, l, h, p), h heads of p channels. float32, bfloat16, float16 or float64, any
            strides.
        dt: step sizes before bias and softplus (b, l, h).
        A: decay rates, negative (h).
        B: input projection (b, l, g, n) in g groups, g a divisor of h. A group serves h / g
            consecutive heads, where `ssd_noncausal` deals them out in turn.
        C: output projection (b, l, g, n).
        D: skip weights (h) or (h, p), or None.
        dt_bias: added to dt (h), or None.
        z: gate (b, l, h, p), or None.
        dt_softplus: pass the step sizes through softplus.
        dt_limit: least and greatest step size, after bias and softplus.
        initial_states: (b, h, p, n), or None.
        return_final_states: also return S_l.
        implementation: "auto" and "torch" are chunked matrix products, "reference" is a plain loop.

    Returns:
        y (b, l, h, p) in x's dtype, and if asked for the final states (b, h, p, n), at least
        float32. Differentiable in every tensor. Decays, and states from chunk to chunk, are
        float32, and so are sums; what the products within a chunk multiply has x's dtype.

    Raises:
        ValueError: an argument has the wrong shape, dtype or device, naming it, what was expected
            and what came.

    Source: Transformers are SSMs, arXiv 2405.21060, section 6.
    """
    others = {
        "dt": (dt, "blh"),
        "A": (A, "h"),
        "C": (C, "blgn"),
        "D": (D, "h hp"),
        "dt_bias": (dt_bias, "h"),
        "z": (z, "blhp"),
        "initial_states": (initial_states, "bhpn"),
    }
    check_ssd_args(x, B, others)
    if dt_limit is not None and not 0 <= dt_limit[0] <= dt_limit[1]:
        raise ValueError(f"dt_limit: expected 0 <= least <= greatest, got {dt_limit}")
    run = choose_implementation(IMPLEMENTATIONS, implementation)
    y, final = run(x, dt, A, B, C, D, dt_bias, z, dt_softplus, dt_limit, initial_states)
    return (y, final) if return_final_states else y
