"""ES2D against EfficientVMamba's own numbers, and against SS2D along the same routes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.models.golden import DEVICES, GOLDEN
from visionssm.layers import ES2D, SS2D

ORDERS = GOLDEN / "scan_orders"
CASES = json.loads((ORDERS / "efficientvmamba_es2d.json").read_text())["cases"]
SCANNED = ("x_proj_weight", "dt_projs_weight", "dt_projs_bias", "A_logs", "Ds")
OFFICIAL = {name: name for name in SCANNED} | {
    "out_norm.weight": "norm_weight",
    "out_norm.bias": "norm_bias",
}
# Both sides compute in float64. The errors of a hundred or so operations in a row are far below.
FLOAT64 = {"rtol": 1e-10, "atol": 1e-10}


def tensors_of(name: str) -> dict[str, Tensor]:
    tensors = load_file(ORDERS / "efficientvmamba_es2d.safetensors")
    return {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")}


def build(case: dict, tensors: dict[str, Tensor]) -> ES2D:
    """A layer of which the scan and the normalisation after it are the case's."""
    layer = ES2D(
        case["d"], d_state=case["N"], dt_rank=case["dt_rank"], ssm_ratio=1.0, kernel_size=1,
        gate=False,
    ).double()  # fmt: skip
    weights = {own: tensors[official] for own, official in OFFICIAL.items()}
    assert layer.load_state_dict(weights, strict=False).unexpected_keys == []
    return layer


def scan_and_norm(layer: ES2D, x: Tensor) -> Tensor:
    return layer.out_norm(layer.scan_map(x))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_values_and_gradients_are_efficientvmambas(case):
    tensors = tensors_of(case["name"])
    layer = build(case, tensors)
    x = tensors["x"].permute(0, 2, 3, 1).clone().requires_grad_()
    y = scan_and_norm(layer, x)
    torch.testing.assert_close(y, tensors["y"], **FLOAT64)
    y.backward(tensors["grad_out"])
    torch.testing.assert_close(x.grad.permute(0, 3, 1, 2), tensors["grad_x"], **FLOAT64)
    for own, official in OFFICIAL.items():
        gradient = layer.get_parameter(own).grad
        torch.testing.assert_close(gradient, tensors[f"grad_{official}"], **FLOAT64, msg=own)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_float32_is_close_to_float64(case, device):
    tensors = tensors_of(case["name"])
    layer = build(case, tensors).float().to(device)
    y = scan_and_norm(layer, tensors["x"].permute(0, 2, 3, 1).float().to(device))
    # A few bits of float32's 24 are lost in products of three or four factors over some ten steps.
    torch.testing.assert_close(
        y.cpu().double(), tensors["y"], rtol=0, atol=2.0**-18 * case["max_abs"]
    )


@pytest.mark.parametrize("grid", [(4, 6), (5, 7), (1, 1), (3, 8)])
def test_is_ss2d_along_the_atrous_routes(grid):
    """The general mixer finds the same routes in its table, and projects every token for each."""
    torch.manual_seed(0)
    layer = ES2D(6, d_state=3).double()
    general = SS2D(6, d_state=3, scan="atrous").double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    general.load_state_dict(layer.state_dict())
    x = torch.randn(2, *grid, 6, dtype=torch.float64, requires_grad=True)
    actual, expected = layer(x), general(x)
    torch.testing.assert_close(actual, expected, **FLOAT64)
    weight = torch.randn_like(actual)
    torch.testing.assert_close(
        torch.autograd.grad(actual, [x, *layer.parameters()], weight),
        torch.autograd.grad(expected, [x, *general.parameters()], weight),
        **FLOAT64,
    )
