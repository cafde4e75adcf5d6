"""HSM-SSD's state in PyTorch: any device, any real dtype, traceable.

A cancels in the softmax and is not read. With w the softmax weights and g the gradient of the
state, the backward pass needs no sum over tokens but <h, g>, because sum_t w_t B_t x_t is h:

    G_t = g x_t                gB_t  = w_t G_t
    gx_t = (w_t B_t) g         gdt_t = w_t (B_t G_t - <h, g>)      dot products over d
"""

from __future__ import annotations

from torch import Tensor

from ..dispatch import compute_dtype


def hsm_ssd_forward(x: Tensor, dt: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """The state (b, n, d) in x's dtype, and the log of the softmax's denominator (b, n)."""
    dtype = compute_dtype(x)
    scores = dt.to(dtype)
    log_total = scores.logsumexp(1)
    weights = (scores - log_total[:, None]).exp_()
    state = (weights * B.to(dtype)).transpose(1, 2) @ x.to(dtype)
    return state.to(x.dtype), log_total


def hsm_ssd_backward(
    grad_state: Tensor, x: Tensor, dt: Tensor, B: Tensor, state: Tensor, log_total: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (x, dt, B), each in its tensor's dtype."""
    dtype = compute_dtype(x)
    g = grad_state.to(dtype)
    weights = (dt.to(dtype) - log_total[:, None]).exp_()
    rows = x.to(dtype) @ g.transpose(1, 2)  # G, (b, l, n)
    gated = B.to(dtype)
    gdt = weights * (gated * rows - (state.to(dtype) * g).sum(-1)[:, None])
    gx = (weights * gated) @ g
    gB = weights * rows
    return gx.to(x.dtype), gdt.to(dt.dtype).contiguous(), gB.to(B.dtype).contiguous()
