"""torch.library registration: one forward and one backward operator, for any device.

Registered as operators, the scan is one node to torch.compile, torch.export, autocast and the FLOP
counter, whichever implementation runs it. What the compiler does well stays outside of the nodes:
A comes with its channels innermost, (k, n, d), complete routes with their last step, and its gap,
repeated until tiles are full; y goes as parts (b, outputs, parts, l, d), gradients of A, B, C, D
and delta_bias as parts (parts, ...), and that of u may go by route, all to be added up.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..dispatch import compute_dtype, numba_works, resolve_implementation
from ..registration import refuse_forward_mode, register_operators
from .sharing import add_up_routes

_lib = torch.library.Library("visionssm", "DEF")
_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, "
    "Tensor? elapsed, Tensor? gaps, Tensor? routes"
)
_lib.define(
    f"selective_scan({_INPUTS}, bool delta_softplus, int outputs, bool complete, "
    "bool save_states, str implementation) -> (Tensor, Tensor, Tensor)"
)
_lib.define(
    f"selective_scan_backward(Tensor grad_y, Tensor? grad_last_state, {_INPUTS}, Tensor states, "
    "bool delta_softplus, bool complete, str implementation) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _resolve(implementation: str, u: Tensor) -> str:
    return resolve_implementation(implementation, u.device, u.dtype, has_numba=True)


def _module(implementation: str, u: Tensor) -> ModuleType:
    """The implementation's functions: all modules have the same. Triton and Numba load late."""
    name = _resolve(implementation, u)
    if name == "numba" and not numba_works():  # asked for by name
        raise ImportError(
            "implementation='numba' needs Numba, and one that fits NumPy: "
            "pip install 'visionssm[cpu]'"
        )
    return importlib.import_module(f"{__package__}.{name}_impl")


def selective_scan_op(
    u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes,
    delta_softplus, outputs, complete, implementation,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Call the operator; arguments are checked already.

    Returns:
        y (b, outputs, l, d), each the sum of as many routes in turn, and the last state.
    """
    refuse_forward_mode("selective_scan")
    gaps = None if gaps is None else gaps.to(compute_dtype(u))
    triton = resolve_implementation(implementation, u.device, u.dtype) == "triton"
    if triton:
        from . import triton_impl

        # Here the compiler fuses what fills up tables with its neighbours.
        if complete and routes is not None:
            routes = triton_impl.whole_tiles(routes)
            gaps = None if gaps is None else triton_impl.whole_tiles(gaps)
    A = A.mT.contiguous() if triton else A.mT
    differentiable = (u, delta, A, B, C, D, delta_bias, elapsed)
    save_states = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in differentiable
    )
    y, last_state, _ = torch.ops.visionssm.selective_scan(
        *differentiable, gaps, routes, delta_softplus, outputs, complete, save_states,
        implementation,
    )  # fmt: skip
    if y.shape[2] == 1:
        return y.squeeze(2), last_state
    with torch.autocast(u.device.type, enabled=False):  # else the sum would be float32
        return y.sum(2), last_state


def _forward(
    u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes,
    delta_softplus, outputs, complete, save_states, implementation,
):  # fmt: skip
    return _module(implementation, u).selective_scan_forward(
        u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes,
        delta_softplus, outputs, complete, save_states,
    )  # fmt: skip


def _backward(
    grad_y, grad_last_state, u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, states,
    delta_softplus, complete, implementation,
):  # fmt: skip
    grads = _module(implementation, u).selective_scan_backward(
        grad_y, grad_last_state, u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, states,
        delta_softplus, complete,
    )  # fmt: skip
    return tuple(A.new_empty(0) if grad is None else grad for grad in grads)


def _forward_fake(
    u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes,
    delta_softplus, outputs, complete, save_states, implementation,
):  # fmt: skip
    b, k, l, d = delta.shape
    triton = _resolve(implementation, u) == "triton"
    y = u.new_empty(b, outputs, k // outputs if triton else 1, l, d)
    n = A.shape[1]
    last_state = u.new_empty((b, k, d, n), dtype=compute_dtype(u))
    if triton:
        last_state = last_state.mT.contiguous().mT  # the kernels keep channels innermost
    states = u.new_empty(0)
    if save_states:
        length = l if routes is None or complete else routes.shape[-1]
        states = _module(implementation, u).saved_states(u, b, k, length, d, n)
    return y, last_state, states


def _backward_fake(
    grad_y, grad_last_state, u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, states,
    delta_softplus, complete, implementation,
):  # fmt: skip
    def empty(x: Tensor | None) -> Tensor:
        if x is None:
            return A.new_empty(0)
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    module = _module(implementation, u)
    gu, gdelta = empty(u), empty(delta)
    if _resolve(implementation, u) == "triton":
        gu = u.new_empty(delta.shape)
        gdelta = module.empty_like_tokens(delta)
    by_channels, by_images = module.num_parts(delta)
    parts = [
        A.new_empty(0) if x is None else x.new_empty((count, *x.shape), dtype=compute_dtype(u))
        for x, count in zip(
            (A, B, C, D, delta_bias),
            (by_images, by_channels, by_channels, by_images, by_images),
            strict=True,
        )
    ]
    return gu, gdelta, *parts, empty(elapsed)


def _setup_context(ctx, inputs, output) -> None:
    *tensors, delta_softplus, _, complete, _, implementation = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.flags = delta_softplus, complete, implementation
    ctx.set_materialize_grads(False)


def _autograd(ctx, grad_y, grad_last_state, _):
    *tensors, states = ctx.saved_tensors
    u, delta, elapsed = (tensors[i] for i in (0, 1, 7))
    delta_softplus, complete, implementation = ctx.flags
    if grad_y is None:
        b, _, l, d = delta.shape
        grad_y = u.new_zeros(()).expand(b, 1, l, d)
    elif grad_y.shape[2] == 1 or grad_y.stride(2) == 0:  # that of a sum, the same for its routes
        grad_y = grad_y[:, :, 0]
    else:
        grad_y = grad_y.flatten(1, 2)
    if grad_y.stride(1) == 0:  # the same one, which the compiler would repeat for a (b, k, l, d)
        grad_y = grad_y[:, :1]
    gu, gdelta, *parts, gelapsed = torch.ops.visionssm.selective_scan_backward(
        grad_y, grad_last_state, *tensors, states, delta_softplus, complete, implementation
    )
    sums = (_add_up(grad, x) for grad, x in zip(parts, tensors[2:7], strict=True))
    gelapsed = None if elapsed is None else gelapsed
    gu = add_up_routes(gu, u.shape[1]).to(u.dtype)
    return gu, gdelta, *sums, gelapsed, None, None, None, None, None, None, None


def _add_up(parts: Tensor, x: Tensor | None) -> Tensor | None:
    """The gradient of x from its parts (parts, *x.shape)."""
    if x is None:
        return None
    total = parts[0] if parts.shape[0] == 1 else parts.sum(0)
    return total.to(x.dtype)


register_operators(
    _lib,
    "selective_scan",
    forward=_forward,
    backward=_backward,
    forward_fake=_forward_fake,
    backward_fake=_backward_fake,
    setup_context=_setup_context,
    autograd=_autograd,
)


def _scan_flops(delta_shape, A_shape, D_shape, routes_shape, complete) -> int:
    """9 operations a step, channel and state (exp, decay, input, update, readout), 2 for D."""
    b, k, l, d = delta_shape
    steps = l if routes_shape is None or complete else routes_shape[-1]
    return b * k * steps * d * (9 * A_shape[1] + (2 if D_shape is not None else 0))


@register_flop_formula(torch.ops.visionssm.selective_scan)
def _forward_flops(
    u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, delta_softplus, outputs, complete,
    *args, out_shape=None, **kwargs,
):  # fmt: skip
    return _scan_flops(delta, A, D, routes, complete)


@register_flop_formula(torch.ops.visionssm.selective_scan_backward)
def _backward_flops(
    grad_y, grad_last_state, u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, states,
    delta_softplus, complete, *args, out_shape=None, **kwargs,
):  # fmt: skip
    return 2 * _scan_flops(delta, A, D, routes, complete)
