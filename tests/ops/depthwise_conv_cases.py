"""Random problems and the error bound that the tests of `depthwise_conv` share."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from visionssm.ops import depthwise_conv


class Case(NamedTuple):
    """Sizes of a map and its taps."""

    b: int
    h: int
    w: int
    d: int
    repeats: int = 1
    taps: tuple[int, int] = (3, 3)
    padding: tuple[int, int] | None = None
    activation: str | None = None
    mirrored: bool = False

    @property
    def options(self) -> dict:
        """Arguments by name."""
        return {
            "padding": self.padding, "mirrored": self.mirrored, "activation": self.activation
        }  # fmt: skip


# Maps smaller than the reach of the taps, of one row or column, and larger; one and two blocks of
# channels, one and several tiles of tokens; even kernels, and those of one row or column.
CASES = [
    Case(1, 1, 1, 1),
    Case(2, 1, 7, 3),
    Case(1, 8, 1, 2, repeats=2),
    Case(1, 1, 2, 65, activation="silu"),
    Case(2, 9, 4, 5, activation="silu"),
    Case(2, 7, 5, 4, taps=(1, 1)),
    Case(1, 6, 7, 2, taps=(2, 5), padding=(1, 0)),
    Case(1, 6, 7, 2, repeats=3, taps=(2, 4), padding=(1, 0), mirrored=True),
    Case(2, 9, 1, 5, repeats=3, taps=(4, 1), padding=(3, 0), activation="silu"),
    Case(1, 3, 1, 2, taps=(4, 1), padding=(1, 0)),
    Case(17, 6, 1, 3, repeats=2, taps=(4, 1), padding=(2, 0)),
    Case(2, 9, 1, 5, repeats=2, taps=(4, 1), padding=(3, 0), activation="silu", mirrored=True),
    Case(1, 9, 1, 128, repeats=2, taps=(4, 1), padding=(3, 0), activation="silu", mirrored=True),
]


def make_inputs(case: Case, *, dtype=torch.float32, device="cpu", seed=0) -> dict[str, Tensor]:
    """Maps of unit variance, weight and bias in float32 as parameters are."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape, dtype=torch.float32):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.to(device, dtype).requires_grad_()

    m = case.repeats * case.d
    return {
        "x": randn(case.b, case.h, case.w, case.d, dtype=dtype),
        "weight": randn(m, 1, *case.taps),
        "bias": randn(m),
    }


def to_double(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values in float64."""
    return {name: t.detach().double().requires_grad_() for name, t in inputs.items()}


def outputs_and_gradients(
    inputs: dict[str, Tensor], case: Case, implementation: str = "auto"
) -> dict[str, Tensor]:
    """y, and the gradients of a random linear function of it."""
    y = depthwise_conv(**inputs, **case.options, implementation=implementation)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(y.shape, generator=generator).bfloat16()  # exact in every dtype
    gradients = torch.autograd.grad(y, list(inputs.values()), weight.to(y.device, y.dtype))
    results = {"y": y.detach()}
    return results | {f"grad_{name}": g for name, g in zip(inputs, gradients, strict=True)}


def assert_results_close(
    actual: dict[str, Tensor], exact: dict[str, Tensor], activated: bool
) -> None:
    """Compare with a float64 result of the same (already rounded) inputs, in relative norm.

    Arithmetic is float32: sums of all taps' products, or of all tokens' for weight and bias, whose
    rounding errors add up like a random walk. On top comes one rounding of the result to its own
    dtype. Gradients of `activated` outputs pass the activation, whose input and output are rounded
    to y's dtype there.
    """
    tokens = math.prod(exact["y"].shape[:3])
    rounding = torch.finfo(actual["y"].dtype).eps / 2
    for name, expected in exact.items():
        got = actual[name]
        assert got.shape == expected.shape, name
        bound = 2.0**-24 * (16 + (0 if name in ("y", "grad_x") else math.sqrt(tokens)))
        if got.dtype in (torch.bfloat16, torch.float16):
            bound += torch.finfo(got.dtype).eps / 2
        if activated and name != "y":
            bound += 2 * rounding
        error = float((got.double() - expected).norm() / expected.norm())
        assert error <= bound, f"{name}: relative error {error:.2e} above {bound:.2e}"
