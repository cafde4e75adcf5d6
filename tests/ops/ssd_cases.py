"""Random problems, golden cases and the error bound that the tests of both SSDs share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from tests.models.golden import GOLDEN
from visionssm.ops.ssd.torch_impl import CHUNK

# b, l, h, p, g, n: one token, one chunk, more, no multiple of one; one channel; many groups
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 37, 4, 8, 2, 5),
    (1, 64, 3, 16, 1, 16),
    (2, 65, 2, 3, 2, 9),
    (1, 200, 6, 4, 3, 4),
]

# heads of several parts, more heads and states than a program's; fewer tokens than a tile's rows
TILED_SHAPES = [(1, 70, 10, 34, 1, 130), (2, 3, 33, 2, 3, 40)]


def golden_cases(name: str) -> list[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Facts and tensors of every case in a file of golden/ops."""
    facts = json.loads((GOLDEN / "ops" / f"{name}.json").read_text())["cases"]
    tensors = load_file(GOLDEN / "ops" / f"{name}.safetensors")
    return [
        (case, {k.split("/")[1]: t for k, t in tensors.items() if k.split("/")[0] == case["name"]})
        for case in facts
    ]


def make_inputs(
    b: int, l: int, h: int, p: int, g: int, n: int, dtype=torch.float32, device="cpu"
) -> dict[str, Tensor]:
    """Random inputs of both ops by name, as leaves."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    inputs = {
        "x": randn(b, l, h, p).to(dtype),
        "dt": randn(b, l, h).to(dtype),
        "A": -randn(h).exp(),
        "B": randn(b, l, g, n).to(dtype),
        "C": randn(b, l, g, n).to(dtype),
        "D": randn(h),
        "dt_bias": randn(h) - 2,
    }
    return {name: t.to(device).requires_grad_() for name, t in inputs.items()}


def to_double(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().double().requires_grad_() for name, t in inputs.items()}


def outputs_and_gradients(op: Callable, inputs: dict[str, Tensor], **options) -> dict[str, Tensor]:
    """y, the final states if the op gives them, and gradients of their random weighted sum."""
    out = op(**inputs, **options)
    named = {"y": out} if isinstance(out, Tensor) else dict(zip(("y", "final"), out, strict=True))
    generator = torch.Generator().manual_seed(1)
    weights = [
        torch.randn(t.shape, generator=generator).to(t.device, t.dtype) for t in named.values()
    ]
    gradients = torch.autograd.grad(list(named.values()), list(inputs.values()), weights)
    values = {name: t.detach() for name, t in named.items()}
    return values | {f"grad_{name}": g for name, g in zip(inputs, gradients, strict=True)}


def largest_log_decay(inputs: dict[str, Tensor]) -> float:
    """Over a chunk of the longest length, at the step sizes of make_inputs."""
    dt = F.softplus(inputs["dt"] + inputs["dt_bias"])[:, :CHUNK]
    return float((dt * inputs["A"]).sum(1).abs().max().detach())


def assert_results_close(
    actual: dict[str, Tensor],
    exact: dict[str, Tensor],
    eps: float = 2.0**-24,
    log_decay: float = 0.0,
) -> None:
    """Compare with a float64 result of the same (already rounded) inputs, in relative norm.

    Some ten roundings to `eps` on the way to a number, that of what the products multiply; they are
    independent, so that sums over tokens do not add to their relative size. A decay is a difference
    of logarithms of up to `log_decay`, whose rounding in float32 is the decay's relative error. All
    decays that span a step share it: where terms of both signs that go through decays are summed
    over all tokens, as for A and dt_bias, it adds up, while the sum of the terms grows with the
    root of their number alone. Of a single token from zero no state decays: A's gradient is what
    rounding leaves of terms of the step size's gradient, which cancel.
    """
    tokens = exact["y"].shape[0] * exact["y"].shape[1]
    for name, expected in exact.items():
        got = actual[name]
        shared = math.sqrt(tokens) if name in ("grad_A", "grad_dt_bias") else 1.0
        limit = 16 * eps + shared * log_decay * 2.0**-24
        assert got.shape == expected.shape, name
        scale = expected
        if name == "grad_A" and exact["y"].shape[1] == 1 and "grad_initial_states" not in exact:
            scale = exact["grad_dt"]
        error = float((got.double() - expected).norm() / scale.norm().clamp_min(1e-30))
        assert error <= limit, f"{name}: relative error {error:.2e} above {limit:.2e}"
