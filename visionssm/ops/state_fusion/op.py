"""torch.library registration: one forward and one backward operator, for any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..dispatch import resolve_implementation
from ..registration import refuse_forward_mode, register_operators
from . import torch_impl

__all__ = ["state_fusion_op"]

_lib = torch.library.Library("visionssm", "FRAGMENT")
_lib.define("state_fusion(Tensor x, Tensor weight, str implementation) -> Tensor")
_lib.define(
    "state_fusion_backward(Tensor grad_y, Tensor x, Tensor weight, str implementation) -> "
    "(Tensor, Tensor)"
)


def state_fusion_op(x: Tensor, weight: Tensor, implementation: str) -> Tensor:
    """Call the operator; arguments are checked already."""
    refuse_forward_mode("state_fusion")
    return torch.ops.visionssm.state_fusion(x, weight, implementation)


def _forward(x, weight, implementation):
    if resolve_implementation(implementation, x.device, x.dtype) == "triton":
        from . import triton_impl

        return triton_impl.state_fusion_forward(x, weight)
    return torch_impl.state_fusion_forward(x, weight)


def _backward(grad_y, x, weight, implementation):
    if resolve_implementation(implementation, x.device, x.dtype) == "triton":
        from . import triton_impl

        return triton_impl.state_fusion_backward(grad_y, x, weight)
    return torch_impl.state_fusion_backward(grad_y, x, weight)


def _forward_fake(x, weight, implementation):
    return x.new_empty(x.shape)


def _backward_fake(grad_y, x, weight, implementation):
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _setup_context(ctx, inputs, output) -> None:
    x, weight, ctx.implementation = inputs
    ctx.save_for_backward(x, weight)


def _autograd(ctx, grad_y):
    gx, gweight = torch.ops.visionssm.state_fusion_backward(
        grad_y, *ctx.saved_tensors, ctx.implementation
    )
    return gx, gweight, None


register_operators(
    _lib,
    "state_fusion",
    forward=_forward,
    backward=_backward,
    forward_fake=_forward_fake,
    backward_fake=_backward_fake,
    setup_context=_setup_context,
    autograd=_autograd,
)


@register_flop_formula(torch.ops.visionssm.state_fusion)
def _forward_flops(x, *args, out_shape=None, **kwargs) -> int:
    """27 multiply-adds an element, as the three convolutions that it is."""
    b, h, w, d = x
    return 2 * 27 * b * h * w * d


@register_flop_formula(torch.ops.visionssm.state_fusion_backward)
def _backward_flops(grad_y, *args, out_shape=None, **kwargs) -> int:
    """As many for each of the two gradients."""
    return 2 * _forward_flops(grad_y)
