"""Run an op on this machine's devices and compare it with its reference, values and gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import selective_scan

STEPS = 37
# Every value is a sum over at most two batches of steps, each term rounded a few times.
TOLERANCE = 8 * STEPS * torch.finfo(torch.float32).eps


def selective_scan_errors(device: torch.device, implementation: str) -> dict[str, float]:
    """Largest error of each output and gradient of `selective_scan` in float32.

    The problem is fixed: 2 images, 3 routes (shuffled, each with a padding step) over 37 tokens,
    20 channels, 4 states. Truth is the float64 reference on the CPU.

    Args:
        device: where the implementation runs.
        implementation: "triton", "torch" or "reference".

    Returns:
        Name -> max |got - expected| / max |expected|, for y, last_state and grad_* of every input.
    """
    inputs, routes, weights = _selective_scan_problem()
    expected = _values_and_gradients(inputs, routes, weights, "reference")
    inputs = {name: x.to(device, torch.float32) for name, x in inputs.items()}
    weights = [w.to(device, torch.float32) for w in weights]
    got = _values_and_gradients(inputs, routes.to(device), weights, implementation)
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


def _values_and_gradients(
    inputs: dict[str, Tensor], routes: Tensor, weights: list[Tensor], implementation: str
) -> dict[str, Tensor]:
    inputs = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    outputs = selective_scan(
        *inputs.values(),
        routes=routes,
        reduce="sum",
        return_last_state=True,
        implementation=implementation,
    )
    gradients = torch.autograd.grad(outputs, list(inputs.values()), weights)
    values = {"y": outputs[0].detach(), "last_state": outputs[1].detach()}
    return values | {f"grad_{name}": g for name, g in zip(inputs, gradients, strict=True)}
