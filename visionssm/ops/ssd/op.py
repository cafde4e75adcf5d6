"""torch.library registration of the Triton implementation: forward and backward.

PyTorch's own products need none: compilers see through them, and join them with their neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..registration import refuse_forward_mode, register_operators

__all__ = ["ssd_op"]

_lib = torch.library.Library("visionssm", "FRAGMENT")
_INPUTS = (
    "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? dt_bias, "
    "Tensor? initial_states, bool dt_softplus, float[]? dt_limit"
)
_lib.define(f"ssd({_INPUTS}) -> (Tensor, Tensor)")
_lib.define(
    f"ssd_backward(Tensor grad_y, Tensor? grad_final, {_INPUTS}) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def ssd_op(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    initial_states: Tensor | None,
    dt_softplus: bool,
    dt_limit: tuple[float, float] | None,
) -> tuple[Tensor, Tensor]:
    """Call the operator; arguments are checked already. Returns y, not gated, and final states."""
    refuse_forward_mode("ssd")
    return torch.ops.visionssm.ssd(
        x, dt, A, B, C, D, dt_bias, initial_states, dt_softplus, dt_limit
    )


def _forward(*inputs):
    from . import triton_impl

    return triton_impl.ssd_forward(*inputs)


def _backward(grad_y, grad_final, x, *inputs):
    from . import triton_impl

    gradients = triton_impl.ssd_backward(grad_y, grad_final, x, *inputs)
    return tuple(x.new_empty(0) if gradient is None else gradient for gradient in gradients)


def _forward_fake(x, dt, A, B, *inputs):
    b, _, h, p = x.shape
    return x.new_empty(x.shape), x.new_empty(b, h, p, B.shape[3], dtype=torch.float32)


def _backward_fake(grad_y, grad_final, x, *inputs):
    *tensors, _, _ = inputs
    return tuple(
        x.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape)
        for tensor in (x, *tensors)
    )


def _setup_context(ctx, inputs, output) -> None:
    *tensors, dt_softplus, dt_limit = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = dt_softplus, dt_limit
    ctx.set_materialize_grads(False)


def _autograd(ctx, grad_y, grad_final):
    tensors = ctx.saved_tensors
    if grad_y is None:
        grad_y = torch.zeros_like(tensors[0])
    gradients = torch.ops.visionssm.ssd_backward(grad_y, grad_final, *tensors, *ctx.options)
    of_inputs = (None if x is None else g for x, g in zip(tensors, gradients, strict=True))
    return *of_inputs, None, None


register_operators(
    _lib,
    "ssd",
    forward=_forward,
    backward=_backward,
    forward_fake=_forward_fake,
    backward_fake=_backward_fake,
    setup_context=_setup_context,
    autograd=_autograd,
)


@register_flop_formula(torch.ops.visionssm.ssd)
def _forward_flops(x, dt, A, B, *args, out_shape=None, **kwargs) -> int:
    """Of the recurrence: a step adds x B^T to the state, and multiplies the state by C.

    What chunks add to that depends on their length.
    """
    b, l, h, p = x
    return 2 * 2 * b * l * h * p * B[3]


@register_flop_formula(torch.ops.visionssm.ssd_backward)
def _backward_flops(grad_y, grad_final, *inputs, out_shape=None, **kwargs) -> int:
    """Two products for each."""
    return 2 * _forward_flops(*inputs)
