"""Random problems and the error bound that the selective-scan tests share."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm.ops import selective_scan
from visionssm.ops.dispatch import numba_works
from visionssm.ops.selective_scan.reference import scatter_steps

INPUTS = ("u", "delta", "A", "B", "C", "D", "delta_bias")

NUMBA = pytest.param("numba", marks=pytest.mark.skipif(not numba_works(), reason="needs Numba"))
every_implementation = pytest.mark.parametrize("implementation", ["torch", NUMBA, "triton"])
every_implementation_and_the_reference = pytest.mark.parametrize(
    "implementation", ["reference", "torch", NUMBA, "triton"]
)

READS_STATES = ("grad_delta", "grad_A", "grad_C", "grad_delta_bias", "grad_elapsed")


def make_inputs(
    b, k, l, d, n, *, dtype=torch.float32, device="cpu", slices=1, elapsed=False, seed=0
) -> dict[str, Tensor]:
    """Inputs at the scale models see: step sizes around 0.1, decay rates in (0.1, 1.1)."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape, dtype=dtype):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

    parameter = torch.promote_types(dtype, torch.float32)
    inputs = {
        "u": randn(b, slices, l, d),
        "delta": randn(b, k, l, d),
        "A": -(0.1 + randn(k, d, n, dtype=parameter).abs()),
        "B": randn(b, k, l, n),
        "C": randn(b, k, l, n),
        "D": randn(k, d, dtype=parameter),
        "delta_bias": randn(k, d, dtype=parameter) - 2,
    }
    if elapsed:
        inputs["elapsed"] = randn(b, k, l, d).abs() / 4
    return {name: t.requires_grad_() for name, t in inputs.items()}


def random_gaps(b: int, k: int, s: int, *, dtype=torch.float32, device="cpu", seed=0) -> Tensor:
    """Positions since the step before, 1 to 4, as many of each."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 5, (b, k, s), generator=generator).to(device, dtype)


def elapsed_of_gaps(
    inputs: dict[str, Tensor], gaps: Tensor, routes: Tensor | None = None
) -> Tensor:
    """The elapsed times of tokens that the gaps of steps stand for, a function of the inputs."""
    step_sizes = F.softplus(inputs["delta"] + inputs["delta_bias"][:, None])
    if routes is not None and routes.dim() == 2:
        routes = routes[None]
    return step_sizes * scatter_steps(gaps[..., None], routes, step_sizes.shape[2])


def random_routes(k: int, l: int, *, steps: int | None = None, batch: int | None = None, seed=0):
    """Random permutations cut to `steps`, every seventh step turned into padding if cut."""
    generator = torch.Generator().manual_seed(seed)
    count = k * (batch or 1)
    routes = torch.stack([torch.randperm(l, generator=generator) for _ in range(count)]).int()
    if steps is not None:
        routes = routes[:, :steps].clone()
        routes[:, ::7] = -1
    return routes.view(batch, k, -1) if batch else routes


def outputs_and_gradients(inputs: dict[str, Tensor], *, seed=1, **kwargs) -> dict[str, Tensor]:
    """y, the last state, and the gradients of a random linear function of both."""
    y, last_state = selective_scan(**inputs, return_last_state=True, **kwargs)
    return with_gradients(y, last_state, inputs, seed=seed)


def with_gradients(
    y: Tensor, last_state: Tensor, inputs: dict[str, Tensor], *, seed=1
) -> dict[str, Tensor]:
    """The same of outputs that are there."""
    generator = torch.Generator().manual_seed(seed)

    def weight(t: Tensor) -> Tensor:  # the same number in every dtype that is compared
        return torch.randn(t.shape, generator=generator).bfloat16().to(y.device, t.dtype)

    loss = (y * weight(y)).double().sum() + (last_state * weight(last_state)).double().sum()
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    results = {"y": y, "last_state": last_state}
    results |= {f"grad_{name}": g for name, g in zip(inputs, gradients, strict=True)}
    return {name: t.detach() for name, t in results.items()}


def to_double(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values in float64: what a low-precision scan is compared with."""
    return {name: t.detach().double().requires_grad_() for name, t in inputs.items()}


def added_up(doubles: dict[str, Tensor], **kwargs) -> dict[str, Tensor]:
    """What results of float64 inputs are sums of over the routes, by name, each (b, k, l, d)."""
    each = {name: t.detach() for name, t in doubles.items()}
    routes_of_slice = each["delta"].shape[1] // each["u"].shape[1]
    each["u"] = each["u"].repeat_interleave(routes_of_slice, dim=1)
    results = outputs_and_gradients(
        {name: t.requires_grad_() for name, t in each.items()}, **kwargs
    )
    addends = {"grad_u": results["grad_u"]}
    if kwargs.get("reduce", "none") != "none":
        addends["y"] = selective_scan(**each, **kwargs | {"reduce": "none"}).detach()
    return addends


def assert_results_close(
    actual: dict[str, Tensor],
    exact: dict[str, Tensor],
    length: int,
    addends: dict[str, Tensor] | None = None,
    rounded_states: bool = False,
) -> None:
    """Compare with a float64 result of the same (already rounded) inputs, in relative norm.

    Arithmetic is float32: a scan's rounding errors add up like a random walk that the decay cuts
    short, so at most like sqrt(length) units, and 32 covers the terms of a step and the sums over
    channels. On top comes one rounding of the result to its own dtype, and one of each of the
    `addends` (b, k, ...) that a result of that name is the sum of, over k. With `rounded_states`
    the backward pass starts from states rounded to bfloat16: twice that rounding, for the terms of
    a gradient cancel in part.
    """
    for name, expected in exact.items():
        got = actual[name]
        assert got.shape == expected.shape, name
        bound = 2.0**-24 * (32 + math.sqrt(length))
        if got.dtype in (torch.bfloat16, torch.float16):
            rounded = [expected, *(addends or {}).get(name, expected[:, :0]).unbind(1)]
            norms = sum(x.double().norm() for x in rounded)
            bound += torch.finfo(got.dtype).eps / 2 * float(norms / expected.double().norm())
        if rounded_states and name in READS_STATES:
            bound += torch.finfo(torch.bfloat16).eps
        scale = expected.double().norm().clamp_min(1e-30)
        error = float((got.double() - expected.double()).norm() / scale)
        assert error <= bound, f"{name}: relative error {error:.2e} above {bound:.2e}"
