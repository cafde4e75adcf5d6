"""Random problems and the error bound that the tests of `hsm_ssd` share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from visionssm.ops import hsm_ssd

# b, l, d, n: odd lengths and widths, one and several tiles of tokens and of channels
SHAPES = [(1, 1, 1, 1), (2, 49, 20, 9), (1, 196, 130, 49), (2, 37, 64, 25), (1, 20, 150, 70)]


def make_inputs(b, l, d, n, *, dtype=torch.float32, device="cpu", seed=0) -> dict[str, Tensor]:
    """Unit-variance inputs; A as published models draw it."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape, dtype=dtype):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

    A = (1 + 15 * torch.rand(n, generator=generator)).to(device)
    inputs = {"x": randn(b, l, d), "dt": randn(b, l, n), "A": A, "B": randn(b, l, n)}
    return {name: t.requires_grad_() for name, t in inputs.items()}


def to_double(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values in float64."""
    return {name: t.detach().double().requires_grad_() for name, t in inputs.items()}


def outputs_and_gradients(inputs: dict[str, Tensor], implementation="auto") -> dict[str, Tensor]:
    """The state, and the gradients of a random linear function of it."""
    state = hsm_ssd(**inputs, implementation=implementation)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(state.shape, generator=generator).bfloat16()  # exact in every dtype
    gradients = torch.autograd.grad(
        state, list(inputs.values()), weight.to(state.device, state.dtype)
    )
    results = {"state": state.detach()}
    return results | {f"grad_{name}": g for name, g in zip(inputs, gradients, strict=True)}


def assert_results_close(actual: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    """Compare with a float64 result of the same (already rounded) inputs, in relative norm.

    Arithmetic is float32 with a few roundings a term (exponential, products split for tensor
    cores), which sums over tokens or channels do not add to; on top come one rounding of the result
    to its own dtype and, in gdt, that of the saved state. The gradient of A is exactly zero.
    """
    for name, expected in exact.items():
        got = actual[name]
        assert got.shape == expected.shape, name
        if name == "grad_A":
            assert got.eq(0).all()
            assert float(expected.abs().max()) < 1e-12
            continue
        bound = 32 * 2.0**-24
        if got.dtype in (torch.bfloat16, torch.float16):
            bound += torch.finfo(got.dtype).eps / 2 * (math.sqrt(2) if name == "grad_dt" else 1)
        scale = expected.norm().clamp_min(1e-30)
        if expected.shape[1] == 1 and name == "grad_dt":  # of a softmax over one token: zero
            scale = exact["grad_B"].norm()
        error = float((got.double() - expected).norm() / scale)
        assert error <= bound, f"{name}: relative error {error:.2e} above {bound:.2e}"
