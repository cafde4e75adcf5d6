"""Selective scan against numbers of mamba_ssm's own reference, evaluated in float64."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.models.golden import GOLDEN
from tests.ops.scan_cases import every_implementation_and_the_reference
from visionssm.ops import selective_scan, selective_scan_fn

CASES = json.loads((GOLDEN / "ops" / "selective_scan.json").read_text())["cases"]
TENSORS = load_file(GOLDEN / "ops" / "selective_scan.safetensors")
INPUTS = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")

# Both sides start from the same float32 inputs and the golden numbers are float64, so the error is
# that of float32 arithmetic over at most 129 steps and 16 states: 64 roundings of the largest.
FLOAT32_BOUND = 64 * 2.0**-24


def _case(case: dict, device: str, dtype: torch.dtype):
    tensors = {
        key.split("/")[1]: t.to(device)
        for key, t in TENSORS.items()
        if key.startswith(case["name"] + "/")
    }
    inputs = {key: tensors[key].to(dtype).requires_grad_() for key in INPUTS if key in tensors}
    return inputs, tensors


def _check(case, inputs, tensors, out, last_state, bound):
    gradients = torch.autograd.grad(
        (out * tensors["grad_out"].to(out.dtype)).sum(), list(inputs.values())
    )
    results = {"out": out, "last_state": last_state}
    results |= {f"grad_{key}": g for key, g in zip(inputs, gradients, strict=True)}
    for key, actual in results.items():
        expected = tensors[key].double()
        error = (actual.detach().double() - expected).abs().max() / expected.abs().max()
        assert error <= bound, f"{case['name']} {key}: {error:.1e} above {bound:.1e}"


def _scan_token_major(inputs, case, implementation):
    """The golden case through the token-major operator: a channel group is a route."""
    groups = case["G"]
    u, delta = (inputs[key].unflatten(1, (groups, -1)).transpose(2, 3) for key in ("u", "delta"))
    B, C = (
        (inputs[key][:, None] if inputs[key].dim() == 3 else inputs[key]).transpose(2, 3)
        for key in ("B", "C")
    )
    A, D, delta_bias = (
        inputs[key].unflatten(0, (groups, -1)) if key in inputs else None
        for key in ("A", "D", "delta_bias")
    )
    y, last_state = selective_scan(
        u, delta, A, B, C, D, delta_bias, delta_softplus=case["delta_softplus"],
        return_last_state=True, implementation=implementation,
    )  # fmt: skip
    out = y.transpose(2, 3).flatten(1, 2)
    if "z" in inputs:
        out = out * torch.nn.functional.silu(inputs["z"])
    return out, last_state.flatten(1, 2)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
@every_implementation_and_the_reference
def test_selective_scan(case, implementation):
    inputs, tensors = _case(case, "cpu", torch.float32)
    out, last_state = _scan_token_major(inputs, case, implementation)
    _check(case, inputs, tensors, out, last_state, FLOAT32_BOUND)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_selective_scan_float64(case, implementation):
    inputs, tensors = _case(case, "cpu", torch.float64)
    out, last_state = _scan_token_major(inputs, case, implementation)
    _check(case, inputs, tensors, out, last_state, 1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_selective_scan_fn(case):
    inputs, tensors = _case(case, "cpu", torch.float32)
    out, last_state = selective_scan_fn(
        **inputs, delta_softplus=case["delta_softplus"], return_last_state=True
    )
    _check(case, inputs, tensors, out, last_state, FLOAT32_BOUND)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_on_gpu(case):
    inputs, tensors = _case(case, "cuda", torch.float32)
    for out, last_state in (
        _scan_token_major(inputs, case, "triton"),
        selective_scan_fn(**inputs, delta_softplus=case["delta_softplus"], return_last_state=True),
    ):
        _check(case, inputs, tensors, out, last_state, FLOAT32_BOUND)
