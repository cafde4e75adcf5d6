"""torch.library registration of the Triton implementation: forward and backward.

One node each to the compiler, which leaves the layout of the tensors around it as it is; around
its own convolutions it would turn every four-dimensional tensor into what it takes for the
channels-last layout of an image, scans' inputs among them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..registration import refuse_forward_mode, register_operators

__all__ = ["depthwise_conv_op"]

_lib = torch.library.Library("visionssm", "FRAGMENT")
_lib.define(
    "depthwise_conv(Tensor x, Tensor taps, Tensor? bias, int top, int left, bool silu, "
    "bool mirrored) -> Tensor"
)
_lib.define(
    "depthwise_conv_backward(Tensor grad_y, Tensor x, Tensor taps, Tensor? bias, int top, "
    "int left, bool silu, bool mirrored) -> (Tensor, Tensor)"
)


def depthwise_conv_op(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    top: int,
    left: int,
    silu: bool,
    mirrored: bool,
) -> Tensor:
    """Call the operator: x (b, h, w, d), taps (kh, kw, m); arguments are checked already."""
    refuse_forward_mode("depthwise_conv")
    return torch.ops.visionssm.depthwise_conv(x, taps, bias, top, left, silu, mirrored)


def _forward(x, taps, bias, top, left, silu, mirrored):
    from . import triton_impl

    return triton_impl.depthwise_conv_forward(x, taps, bias, top, left, silu, mirrored)


def _backward(grad_y, x, taps, bias, top, left, silu, mirrored):
    from . import triton_impl

    return triton_impl.depthwise_conv_backward(grad_y, x, taps, bias, top, left, silu, mirrored)


def _forward_fake(x, taps, bias, top, left, silu, mirrored):
    return x.new_empty(*x.shape[:3], taps.shape[2])


def _backward_fake(grad_y, x, taps, bias, top, left, silu, mirrored):
    kh, kw, m = taps.shape
    gtaps = taps.new_empty((kh * kw + (bias is not None), m), dtype=torch.float32)
    return x.new_empty(x.shape), gtaps


def _setup_context(ctx, inputs, output) -> None:
    x, taps, bias, *ctx.options = inputs
    ctx.save_for_backward(x, taps, bias)


def _autograd(ctx, grad_y):
    x, taps, bias = ctx.saved_tensors
    gx, sums = torch.ops.visionssm.depthwise_conv_backward(grad_y, x, taps, bias, *ctx.options)
    kh, kw, m = taps.shape
    gtaps = sums[: kh * kw].view(kh, kw, m).to(taps.dtype)
    return gx, gtaps, None if bias is None else sums[-1].to(bias.dtype), None, None, None, None


register_operators(
    _lib,
    "depthwise_conv",
    forward=_forward,
    backward=_backward,
    forward_fake=_forward_fake,
    backward_fake=_backward_fake,
    setup_context=_setup_context,
    autograd=_autograd,
)


@register_flop_formula(torch.ops.visionssm.depthwise_conv)
def _forward_flops(x, taps, *args, out_shape=None, **kwargs) -> int:
    """A multiply-add for each tap of each output."""
    (b, h, w, _), (kh, kw, m) = x, taps
    return 2 * b * h * w * kh * kw * m


@register_flop_formula(torch.ops.visionssm.depthwise_conv_backward)
def _backward_flops(grad_y, x, taps, bias, top, left, silu, *args, out_shape=None, **kwargs) -> int:
    """As many for each of the two gradients, and for what was activated."""
    return (3 if silu else 2) * _forward_flops(x, taps)
