"""State fusion (Spatial-Mamba): each state of a map gathers its neighbours at three dilations."""

from __future__ import annotations

from torch import Tensor

from ..dispatch import check_implementation
from .checks import check_state_fusion_args
from .op import state_fusion_op
from .reference import state_fusion_reference

__all__ = ["state_fusion"]


def state_fusion(x: Tensor, weight: Tensor, *, implementation: str = "auto") -> Tensor:
    """Sum of three depthwise 3 x 3 cross-correlations of dilation 1, 3 and 5.

    For every image and channel, with rows and columns outside the map read at its border::

        y[r, c] = sum over i, p, q in 0..2 of
                  weight[i, p, q] x[clamp(r + (p - 1) e_i), clamp(c + (q - 1) e_i)],  e = 1, 3, 5

    Maps may be smaller than the reach of the taps. There is no bias.

    Args:
        x: states (b, h, w, d). float32, bfloat16 or float16 (float64 outside of Triton), any
            strides.
        weight: taps (3, 3, 3, d): dilation, row, column, channel. May differ from x in dtype.
        implementation: "auto" (Triton on CUDA, PyTorch elsewhere), or "triton", "torch",
            "reference" by name.

    Returns:
        y (b, h, w, d) in x's dtype, computed in float32. Differentiable in both tensors (once and
        in reverse mode; the reference twice, and forward); the same input gives the same bits.

    Raises:
        ValueError: an argument has the wrong shape, dtype or device, naming it, what was expected
            and what came.
        NotImplementedError: a second or forward-mode derivative is asked for.

    Source: Spatial-Mamba, arXiv 2410.15091, section 4.1, equation 5.
    """
    check_state_fusion_args(x, weight)
    check_implementation(implementation)
    if implementation == "reference":
        return state_fusion_reference(x, weight)
    return state_fusion_op(x, weight, implementation)
