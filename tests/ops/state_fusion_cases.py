"""Random problems and the error bound that the tests of `state_fusion` share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from visionssm.ops import state_fusion

# Maps smaller than the reach of the taps, of one row or column, and larger; one and two blocks of
# channels, one and several tiles of tokens.
SHAPES = [(1, 1, 1, 1), (2, 1, 7, 3), (1, 8, 1, 2), (1, 1, 2, 65), (2, 7, 5, 4), (1, 2, 3, 96)]


def make_inputs(b, h, w, d, *, dtype=torch.float32, device="cpu", seed=0) -> dict[str, Tensor]:
    """States of unit variance, and taps in float32 as parameters are."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape, dtype):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

    inputs = {"x": randn(b, h, w, d, dtype=dtype), "weight": randn(3, 3, 3, d, dtype=torch.float32)}
    return {name: t.requires_grad_() for name, t in inputs.items()}


def to_double(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values in float64."""
    return {name: t.detach().double().requires_grad_() for name, t in inputs.items()}


def outputs_and_gradients(inputs: dict[str, Tensor], implementation="auto") -> dict[str, Tensor]:
    """y, and the gradients of a random linear function of it."""
    y = state_fusion(**inputs, implementation=implementation)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(y.shape, generator=generator).bfloat16()  # exact in every dtype
    gradients = torch.autograd.grad(y, list(inputs.values()), weight.to(y.device, y.dtype))
    results = {"y": y.detach()}
    return results | {f"grad_{name}": g for name, g in zip(inputs, gradients, strict=True)}


def assert_results_close(actual: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    """Compare with a float64 result of the same (already rounded) inputs, in relative norm.

    Arithmetic is float32: sums of some 27 products, or of all tokens' for the taps, whose rounding
    errors add up like a random walk; on top comes one rounding of the result to its own dtype.
    """
    tokens = math.prod(exact["y"].shape[:3])
    for name, expected in exact.items():
        got = actual[name]
        assert got.shape == expected.shape, name
        bound = 2.0**-24 * (16 + (math.sqrt(tokens) if name == "grad_weight" else 0))
        if got.dtype in (torch.bfloat16, torch.float16):
            bound += torch.finfo(got.dtype).eps / 2
        error = float((got.double() - expected).norm() / expected.norm())
        assert error <= bound, f"{name}: relative error {error:.2e} above {bound:.2e}"
