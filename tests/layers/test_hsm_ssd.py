"""The HSM-SSD mixer against numbers of the official code in float64, and against timm's."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from timm.models import efficientvim

from tests.models.golden import GOLDEN
from visionssm.layers import HSMSSD

CASES = json.loads((GOLDEN / "ops" / "hsm_ssd.json").read_text())["cases"]
TENSORS = load_file(GOLDEN / "ops" / "hsm_ssd.safetensors")

# float32 against float64 of the same inputs: 64 roundings of the largest value cover products in
# sequence, each over at most 49 tokens or channels.
BOUNDS = {torch.float32: 64 * 2.0**-24, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden_case(case, dtype):
    tensors = {
        key.removeprefix(case["name"] + "/"): t
        for key, t in TENSORS.items()
        if key.startswith(case["name"] + "/")
    }
    mixer = HSMSSD(case["d"], ssd_expand=case["expand"], state_dim=case["state_dim"]).to(dtype)
    mixer.load_state_dict(
        {k.removeprefix("param/"): v for k, v in tensors.items() if k.startswith("param/")}
    )
    x = tensors["x"].to(dtype).requires_grad_()
    y, h = mixer(x.unflatten(2, (case["grid"], case["grid"])))
    y.backward(tensors["grad_out"].to(dtype))
    results = {"y": y, "h": h, "grad_x": x.grad}
    results |= {f"grad_param/{name}": p.grad for name, p in mixer.named_parameters()}
    for name, actual in results.items():
        expected = tensors[name].double()
        if name == "grad_param/A":
            assert actual.eq(0).all()
            assert expected.abs().max() < 1e-12
            continue
        error = (actual.detach().double() - expected).abs().max() / expected.abs().max()
        assert error <= BOUNDS[dtype], f"{name}: {error:.1e}"


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (5, 9)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("expand", [1.0, 1.5])
def test_equals_timm_on_any_map(size, memory_format, expand):
    torch.manual_seed(0)
    theirs = efficientvim.HSMSSD(12, ssd_expand=expand, state_dim=5)
    ours = HSMSSD(12, ssd_expand=expand, state_dim=5)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 12, *size).contiguous(memory_format=memory_format)
    for got, expected in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_the_dtypes_of_timm(dtype):
    torch.manual_seed(0)
    theirs = efficientvim.HSMSSD(12, state_dim=5)
    ours = HSMSSD(12, state_dim=5)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 12, 6, 7)
    exact = copy.deepcopy(theirs)(x)
    with torch.autocast("cpu", dtype):
        for got, expected, truth in zip(ours(x), theirs(x), exact, strict=True):
            assert got.dtype == expected.dtype
            error = (got - truth).norm() / truth.norm()
            assert error < 4 * torch.finfo(dtype).eps  # five layers, each of which rounds
