"""torch.library registration: one forward and one backward operator, for any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..dispatch import compute_dtype, resolve_implementation
from ..registration import refuse_forward_mode, register_operators
from . import torch_impl

__all__ = ["hsm_ssd_op"]

_lib = torch.library.Library("visionssm", "FRAGMENT")
_lib.define(
    "hsm_ssd(Tensor x, Tensor dt, Tensor A, Tensor B, str implementation) -> (Tensor, Tensor)"
)
_lib.define(
    "hsm_ssd_backward(Tensor grad_state, Tensor x, Tensor dt, Tensor B, Tensor state, "
    "Tensor log_total, str implementation) -> (Tensor, Tensor, Tensor)"
)


def hsm_ssd_op(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, implementation: str) -> Tensor:
    """Call the operator; arguments are checked already. Returns the state."""
    refuse_forward_mode("hsm_ssd")
    return torch.ops.visionssm.hsm_ssd(x, dt, A, B, implementation)[0]


def _forward(x, dt, A, B, implementation):
    if resolve_implementation(implementation, x.device, x.dtype) == "triton":
        from . import triton_impl

        return triton_impl.hsm_ssd_forward(x, dt, B)
    with torch.autocast(x.device.type, enabled=False):  # its matmuls are the state's: float32
        return torch_impl.hsm_ssd_forward(x, dt, B)


def _backward(grad_state, x, dt, B, state, log_total, implementation):
    inputs = (grad_state, x, dt, B, state, log_total)
    if resolve_implementation(implementation, x.device, x.dtype) == "triton":
        from . import triton_impl

        return triton_impl.hsm_ssd_backward(*inputs)
    with torch.autocast(x.device.type, enabled=False):
        return torch_impl.hsm_ssd_backward(*inputs)


def _forward_fake(x, dt, A, B, implementation):
    b, _, d = x.shape
    n = dt.shape[2]
    return x.new_empty(b, n, d), x.new_empty(b, n, dtype=compute_dtype(x))


def _backward_fake(grad_state, x, dt, B, state, log_total, implementation):
    return tuple(t.new_empty(t.shape) for t in (x, dt, B))


def _setup_context(ctx, inputs, output) -> None:
    x, dt, A, B, ctx.implementation = inputs
    ctx.save_for_backward(x, dt, A, B, *output)
    ctx.set_materialize_grads(False)


def _autograd(ctx, grad_state, _):
    if grad_state is None:
        return None, None, None, None, None
    x, dt, A, B, state, log_total = ctx.saved_tensors
    gx, gdt, gB = torch.ops.visionssm.hsm_ssd_backward(
        grad_state, x, dt, B, state, log_total, ctx.implementation
    )
    return gx, gdt, torch.zeros_like(A), gB, None


register_operators(
    _lib,
    "hsm_ssd",
    forward=_forward,
    backward=_backward,
    forward_fake=_forward_fake,
    backward_fake=_backward_fake,
    setup_context=_setup_context,
    autograd=_autograd,
)


@register_flop_formula(torch.ops.visionssm.hsm_ssd)
def _forward_flops(x, dt, *args, out_shape=None, **kwargs) -> int:
    """The weighted sum, as the matrix product that it is; the softmax is elementwise work."""
    b, l, d = x
    return 2 * b * l * d * dt[2]


@register_flop_formula(torch.ops.visionssm.hsm_ssd_backward)
def _backward_flops(grad_state, x, dt, *args, out_shape=None, **kwargs) -> int:
    """Two products: G and gx."""
    return 2 * _forward_flops(x, dt)
