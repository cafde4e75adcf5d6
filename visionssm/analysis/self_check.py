"""Run an op on this machine's devices and compare it with its reference, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..ops import hsm_ssd, selective_scan, ssd, ssd_noncausal, state_fusion

Outputs = Tensor | tuple[Tensor, Tensor]
STEPS = 37
# Every value is a sum over at most two batches of steps, each term rounded a few times.
TOLERANCE = 8 * STEPS * torch.finfo(torch.float32).eps


def selective_scan_errors(device: torch.device, implementation: str) -> dict[str, float]:
    """Largest error of each output and gradient of `selective_scan` in float32.

    The problem is fixed: 2 images, 3 routes (shuffled, each with a padding step) over 37 tokens,
    20 channels, 4 states. Truth is the float64 reference on the CPU.

    Args:
        device: where the implementation runs.
        implementation: "triton", "numba", "torch" or "reference".

    Returns:
        Name -> max |got - expected| / max |expected|, for y, last_state and grad_* of every input.
    """
    inputs, routes, weights = _selective_scan_problem()

    def run(implementation: str, *inputs: Tensor) -> Outputs:
        return selective_scan(
            *inputs,
            routes=routes.to(inputs[0].device),
            reduce="sum",
            return_last_state=True,
            implementation=implementation,
        )

    outputs = dict(zip(("y", "last_state"), weights, strict=True))
    return _errors(run, inputs, outputs, device, implementation)


def hsm_ssd_errors(device: torch.device, implementation: str) -> dict[str, float]:
    """Largest error of the state and of each gradient of `hsm_ssd` in float32.

    The problem is fixed: 2 images of 37 tokens, 20 channels, 5 states. Truth is the float64
    reference on the CPU. A is left out: its gradient is zero.

    Args:
        device: where the implementation runs.
        implementation: "triton", "torch" or "reference".

    Returns:
        Name -> max |got - expected| / max |expected|, for the state and grad_* of x, dt and B.
    """
    b, l, d, n = 2, STEPS, 20, 5
    generator = torch.Generator().manual_seed(0)
    x, dt, B, weight = (
        torch.randn(*shape, dtype=torch.float64, generator=generator)
        for shape in ((b, l, d), (b, l, n), (b, l, n), (b, n, d))
    )

    def run(implementation: str, *inputs: Tensor) -> Outputs:
        x, dt, B = inputs
        return hsm_ssd(x, dt, x.new_ones(n), B, implementation=implementation)

    return _errors(run, {"x": x, "dt": dt, "B": B}, {"state": weight}, device, implementation)


def state_fusion_errors(device: torch.device, implementation: str) -> dict[str, float]:
    """Largest error of y and of each gradient of `state_fusion` in float32.

    The problem is fixed: 2 images of 4 x 9 pixels and 20 channels. Truth is the float64 reference
    on the CPU.

    Args:
        device: where the implementation runs.
        implementation: "triton", "torch" or "reference".

    Returns:
        Name -> max |got - expected| / max |expected|, for y and grad_* of x and weight.
    """
    b, h, w, d = 2, 4, 9, 20
    generator = torch.Generator().manual_seed(0)
    x, weight, loss_weight = (
        torch.randn(*shape, dtype=torch.float64, generator=generator)
        for shape in ((b, h, w, d), (3, 3, 3, d), (b, h, w, d))
    )

    def run(implementation: str, *inputs: Tensor) -> Outputs:
        return state_fusion(*inputs, implementation=implementation)

    return _errors(run, {"x": x, "weight": weight}, {"y": loss_weight}, device, implementation)


def ssd_errors(device: torch.device, implementation: str) -> dict[str, float]:
    """Largest error of each output and gradient of `ssd` in float32.

    The problem is fixed: an image of 74 tokens (several chunks), 4 heads of 5 channels in 2 groups,
    3 states. Truth is the float64 reference on the CPU.

    Args:
        device: where the implementation runs.
        implementation: "triton", "torch" or "reference".

    Returns:
        Name -> max |got - expected| / max |expected|, for y, final_states and grad_* of every
        input.
    """
    inputs, outputs = _ssd_problem()

    def run(implementation: str, *inputs: Tensor) -> Outputs:
        return ssd(*inputs, return_final_states=True, implementation=implementation)

    return _errors(run, inputs, outputs, device, implementation)


def ssd_noncausal_errors(device: torch.device, implementation: str) -> dict[str, float]:
    """Largest error of y and of each gradient of `ssd_noncausal`; otherwise as `ssd_errors`."""
    inputs, outputs = _ssd_problem()

    def run(implementation: str, *inputs: Tensor) -> Outputs:
        return ssd_noncausal(*inputs, implementation=implementation)

    return _errors(run, inputs, {"y": outputs["y"]}, device, implementation)


def _errors(
    run: Callable[..., Outputs],
    inputs: dict[str, Tensor],
    outputs: dict[str, Tensor],
    device: torch.device,
    implementation: str,
) -> dict[str, float]:
    """Errors of what `run` gives; `outputs` holds the weight of each of its outputs in the loss."""
    expected = _values_and_gradients(partial(run, "reference"), inputs, outputs)
    inputs, outputs = (
        {name: x.to(device, torch.float32) for name, x in tensors.items()}
        for tensors in (inputs, outputs)
    )
    got = _values_and_gradients(partial(run, implementation), inputs, outputs)
    return {
        name: float((got[name].cpu() - truth).abs().max() / truth.abs().max())
        for name, truth in expected.items()
    }


def _selective_scan_problem() -> tuple[dict[str, Tensor], Tensor, list[Tensor]]:
    """Inputs by name, routes (k, s) and the weights of y and of the last state in the loss."""
    b, k, l, d, n = 2, 3, STEPS, 20, 4
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    inputs = {
        "u": randn(b, 1, l, d),
        "delta": randn(b, k, l, d),
        "A": -randn(k, d, n).exp(),
        "B": randn(b, k, l, n),
        "C": randn(b, k, l, n),
        "D": randn(k, d),
        "delta_bias": randn(k, d),
    }
    routes = torch.stack([torch.randperm(l, generator=generator) for _ in range(k)]).int()
    routes[:, l // 2] = -1
    return inputs, routes, [randn(b, l, d), randn(b, k, d, n)]


def _ssd_problem() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs by name, and the weights of y and of the final states in the loss."""
    b, l, h, p, g, n = 1, 2 * STEPS, 4, 5, 2, 3
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    inputs = {
        "x": randn(b, l, h, p),
        "dt": randn(b, l, h),
        "A": -randn(h).exp(),
        "B": randn(b, l, g, n),
        "C": randn(b, l, g, n),
        "D": randn(h),
        "dt_bias": randn(h),
    }
    return inputs, {"y": randn(b, l, h, p), "final_states": randn(b, h, p, n)}


def _values_and_gradients(
    run: Callable[..., Outputs], inputs: dict[str, Tensor], outputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    inputs = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    result = run(*inputs.values())
    found = result if isinstance(result, tuple) else (result,)
    gradients = torch.autograd.grad(found, list(inputs.values()), list(outputs.values()))
    values = {name: x.detach() for name, x in zip(outputs, found, strict=True)}
    return values | {f"grad_{name}": g for name, g in zip(inputs, gradients, strict=True)}


SELF_CHECKS: dict[str, Callable[[torch.device, str], dict[str, float]]] = {
    "selective_scan": selective_scan_errors,
    "hsm_ssd": hsm_ssd_errors,
    "ssd": ssd_errors,
    "ssd_noncausal": ssd_noncausal_errors,
    "state_fusion": state_fusion_errors,
}
WITHOUT_KERNELS = ("ssd_noncausal",)  # matrix products on every device
