"""Multi-head scan against MHS-VM's own numbers, and at the edges of what it accepts."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.models.golden import DEVICES, GOLDEN
from visionssm.layers import GatedMultiHeadScan, MultiHeadScan
from visionssm.layers.multi_head_scan import scan_route_attention

ORDERS = GOLDEN / "scan_orders"
ATTENTION = json.loads((ORDERS / "mhs_sra.json").read_text())["cases"]
MODULES = json.loads((ORDERS / "mhs_module.json").read_text())["cases"]
OFFICIAL = {
    "in_proj.weight": "x_ssproj_W",
    "norm.weight": "cat_norm.weight",
    "norm.bias": "cat_norm.bias",
    "out_proj.weight": "y_proj.weight",
}
OFFICIAL_GATED = {
    "in_proj.weight": "in_proj.weight",
    "conv2d.weight": "conv2d.weight",
    "conv2d.bias": "conv2d.bias",
    "norm.weight": "out_norm.weight",
    "norm.bias": "out_norm.bias",
}
# Both sides compute in float64. The errors of a hundred or so operations in a row are far below.
FLOAT64 = {"rtol": 1e-10, "atol": 1e-10}


def tensors_of(file: str, name: str) -> dict[str, Tensor]:
    tensors = load_file(ORDERS / f"{file}.safetensors")
    return {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")}


def official(tensors: dict[str, Tensor], kind: str, own: str, heads: str) -> Tensor:
    """The parameter of our name `own`, or its gradient, from the official tensors."""
    scan, _, inner = own.rpartition("scan.")
    if not scan and own in OFFICIAL_GATED and f"{kind}/conv2d.bias" in tensors:
        return tensors[f"{kind}/{OFFICIAL_GATED[own]}"]
    prefix = f"{kind}/mhs." if own.startswith("scan.") else f"{kind}/"
    if inner in OFFICIAL:
        return tensors[prefix + OFFICIAL[inner]]
    return torch.cat([tensors[f"{prefix}scanhead_{head}.mambaeng.{inner}"] for head in heads])


def build(case: dict, tensors: dict[str, Tensor]) -> tuple[nn.Module, str]:
    heads = "CXSZ"[: case["heads"]]
    options = {
        "d_state": case["N"],
        "threshold": case["t"],
        "project": case["proj"],
        "scan": f"multi_head(heads='{heads}')",
    }
    layer_class = {"MHSM": MultiHeadScan, "VSSGate": GatedMultiHeadScan}[case["cls"]]
    layer = layer_class(case["d"], **options).double()
    weights = {own: official(tensors, "param", own, heads) for own in layer.state_dict()}
    layer.load_state_dict(weights)
    return layer, heads


@pytest.mark.parametrize("case", MODULES, ids=lambda case: case["name"])
def test_values_and_gradients_are_mhs_vms(case):
    tensors = tensors_of("mhs_module", case["name"])
    layer, heads = build(case, tensors)
    # The official multi-head module reads channels first.
    first = case["cls"] == "MHSM"
    x = tensors["x"].permute(0, 2, 3, 1) if first else tensors["x"]
    x = x.clone().requires_grad_()
    y = layer(x)
    torch.testing.assert_close(y, tensors["y"], **FLOAT64)
    y.backward(tensors["grad_out"])
    grad_x = x.grad.permute(0, 3, 1, 2) if first else x.grad
    torch.testing.assert_close(grad_x, tensors["grad_x"], **FLOAT64)
    for own, parameter in layer.named_parameters():
        expected = official(tensors, "grad_param", own, heads)
        torch.testing.assert_close(parameter.grad, expected, **FLOAT64, msg=own)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", MODULES, ids=lambda case: case["name"])
def test_float32_is_close_to_float64(case, device):
    tensors = tensors_of("mhs_module", case["name"])
    layer, _ = build(case, tensors)
    layer = layer.float().to(device)
    x = tensors["x"].permute(0, 2, 3, 1) if case["cls"] == "MHSM" else tensors["x"]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        y = layer(x.float().to(device)).cpu().double()
    # The attention divides differences of routes by each other: 10 of float32's 24 bits may go.
    torch.testing.assert_close(y, tensors["y"], rtol=0, atol=2.0**-14 * case["max_abs_y"])


@pytest.mark.parametrize("case", ATTENTION, ids=lambda case: case["name"])
def test_attention_is_mhs_vms(case):
    tensors = tensors_of("mhs_sra", case["name"])
    x = tensors["x"].requires_grad_()
    y = scan_route_attention(x, 1, case["t"])
    torch.testing.assert_close(y, tensors["y"], **FLOAT64)
    y.backward(tensors["grad_out"])
    torch.testing.assert_close(x.grad, tensors["grad_x"], **FLOAT64)


def test_equal_routes_cancel_without_a_nan():
    y = torch.full((2, 4, 3), 5.0, requires_grad=True)
    out = scan_route_attention(y, 1)
    out.sum().backward()
    assert out.eq(0).all()
    assert y.grad.eq(0).all()


def test_low_precision_attention_computes_in_float32():
    y = torch.randn(2, 4, 50).bfloat16()
    out = scan_route_attention(y, 1, 0.5)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, scan_route_attention(y.float(), 1, 0.5).bfloat16())


@pytest.mark.parametrize("scan", ["multi_head", "cross_scan", "window(size=2)"])
def test_any_scan_that_covers_the_image_will_do(scan):
    torch.manual_seed(0)
    layer = MultiHeadScan(10, d_state=2, scan=scan)
    x = torch.randn(1, 3, 5, 10, requires_grad=True)
    layer(x).square().sum().backward()
    for name, tensor in {"x": x, **dict(layer.named_parameters())}.items():
        assert tensor.grad.isfinite().all(), name
        assert tensor.grad.abs().max() > 0, name


def test_a_head_reads_its_own_slice_only():
    layer = MultiHeadScan(8, d_state=2, project=False)
    with torch.no_grad():
        layer.in_proj.weight.copy_(torch.eye(8))
    x = torch.randn(1, 4, 4, 8)
    y = layer(x)
    x[..., 2:4] += 1.0  # the second of four heads
    changed = (layer(x) - y).abs().amax((0, 1, 2)) > 0
    assert changed.tolist() == [False] * 2 + [True] * 2 + [False] * 4


def test_channels_that_no_head_can_own_are_left_out():
    layer = MultiHeadScan(10, d_state=2, project=False)
    assert layer(torch.randn(1, 2, 3, 10)).shape == (1, 2, 3, 8)


@pytest.mark.parametrize("layer_class", [MultiHeadScan, GatedMultiHeadScan])
def test_compiles_into_one_graph(layer_class):
    layer = layer_class(8, d_state=2).eval()
    x = torch.randn(1, 4, 6, 8)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize(("options", "message"), [
    ({"dim": 3}, "dim: expected a channel for each of 4 heads, got 3"),
    ({"scan": "atrous"}, "scan: expected routes that visit every token.*got 'atrous'"),
    ({"scan": "raster"}, "scan: expected routes .*at least two a head, got 'raster'"),
    ({"scan": "nowhere"}, "scan: expected one of"),
    ({"dt_rank": 0}, "dt_rank: expected 'auto' or a positive integer, got 0"),
    ({"d_state": 65}, "d_state: expected 1 to 64, got 65"),
])  # fmt: skip
def test_impossible_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadScan(**{"dim": 8, **options})


def test_other_impossible_arguments_are_named():
    with pytest.raises(ValueError, match="kernel_size: expected an odd positive integer, got 4"):
        GatedMultiHeadScan(8, kernel_size=4)
    with pytest.raises(ValueError, match="project: expected True, 4 heads give back 8 of 10"):
        GatedMultiHeadScan(10, project=False)
    with pytest.raises(ValueError, match="y: expected at least two routes along axis 1"):
        scan_route_attention(torch.randn(2, 1, 3), 1)
