"""State-space duality (Mamba-2): the scan with one decay a head, as matrix products of chunks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import check_implementation, log_once, resolve_implementation
from .checks import check_ssd_args
from .op import ssd_op
from .reference import ssd_reference
from .torch_impl import ssd_torch

__all__ = ["ssd"]

MAX_TRITON_STATES = 256  # a program of the kernels has all of a head's


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
        implementation: "auto" (Triton on CUDA up to n = 256, PyTorch elsewhere), or "triton",
            "torch", "reference" by name. The first two are matrix products of chunks, the last is a
            plain loop.

    Returns:
        y (b, l, h, p) in x's dtype, and if asked for the final states (b, h, p, n), at least
        float32. Differentiable in every tensor; in Triton once and in reverse mode, where the same
        input gives the same bits. Decays, and states from chunk to chunk, are float32, and so are
        sums; what the products within a chunk multiply has x's dtype.

    Raises:
        ValueError: an argument has the wrong shape, dtype or device, naming it, what was expected
            and what came; or Triton is asked for by name where it does not run.
        NotImplementedError: a second or forward-mode derivative of Triton's is asked for.

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
    check_implementation(implementation)
    chosen = _resolve(implementation, x, B.shape[3])
    if chosen != "triton":
        run = ssd_reference if chosen == "reference" else ssd_torch
        y, final = run(x, dt, A, B, C, D, dt_bias, z, dt_softplus, dt_limit, initial_states)
    else:
        y, final = ssd_op(x, dt, A, B, C, D, dt_bias, initial_states, dt_softplus, dt_limit)
        if z is not None:
            y = (y * F.silu(z.to(torch.float32))).to(x.dtype)
    return (y, final) if return_final_states else y


def _resolve(name: str, x: Tensor, n: int) -> str:
    """The implementation that runs; ValueError if it is Triton's and the state is too large."""
    chosen = resolve_implementation(name, x.device, x.dtype)
    if chosen != "triton" or 1 <= n <= MAX_TRITON_STATES:
        return chosen
    expected = f"1 to {MAX_TRITON_STATES} states in Triton, got {n}"
    if name == "triton":
        raise ValueError(f"B: expected {expected}")
    log_once(f"ssd runs its slower PyTorch implementation: {expected}")
    return "torch"
