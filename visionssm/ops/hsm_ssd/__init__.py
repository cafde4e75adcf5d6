"""The state of HSM-SSD (EfficientViM): tokens gathered into n states by a softmax over tokens."""

from __future__ import annotations

from torch import Tensor

from ..dispatch import check_implementation
from .checks import check_hsm_ssd_args
from .op import hsm_ssd_op
from .reference import hsm_ssd_reference

__all__ = ["hsm_ssd"]


def hsm_ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    *,
    implementation: str = "auto",
) -> Tensor:
    """Gather all tokens into one state, each state index weighting them by its own softmax.

    For every image, with sums over the l tokens::

        w_t = softmax over tokens of (dt_t + A)      one softmax for each of the n states
        h   = sum_t w_t B_t x_t^T                    (n, d)

    There is no order among tokens. A is constant along the softmax and cancels: it changes nothing,
    and its gradient is exactly zero. It is here because the mixer is defined with it and published
    weights hold it.

    HSM-SSD then mixes channels on the n states, which are far fewer than the tokens, and reads them
    out by a matrix product with C; `visionssm.layers.HSMSSD` is the whole of it.

    Args:
        x: tokens (b, l, d). float32, bfloat16 or float16 (float64 outside of Triton), any strides;
            x, dt and B may differ in dtype.
        dt: what the softmax weights (b, l, n), n from 1 to 256.
        A: added to dt, (n).
        B: input projection (b, l, n).
        implementation: "auto" (Triton on CUDA, PyTorch elsewhere), or "triton", "torch",
            "reference" by name.

    Returns:
        The state (b, n, d) in x's dtype, computed in float32. Differentiable in every tensor (once
        and in reverse mode; the reference twice, and forward); the same input gives the same bits.

    Raises:
        ValueError: an argument has the wrong shape, dtype or device, naming it, what was expected
            and what came.
        NotImplementedError: a second or forward-mode derivative is asked for.

    Source: EfficientViM, arXiv 2411.15241, section 3.2.
    """
    check_hsm_ssd_args(x, dt, A, B)
    check_implementation(implementation)
    if implementation == "reference":
        return hsm_ssd_reference(x, dt, A, B)
    return hsm_ssd_op(x, dt, A, B, implementation)
