"""Golden cases: numbers that the official implementations gave, and how near to them is right.

tests/golden holds one case for most options of a family, and an input gradient of one or two of
them. A complete set lies where the environment variable VISIONSSM_GOLDENS points to, a folder of
the same structure, which is then read instead::

    VISIONSSM_GOLDENS=/path/to/goldens python -m pytest tests/models/test_families.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from visionssm.models.official import OfficialLayout

GOLDEN = Path(os.environ.get("VISIONSSM_GOLDENS") or Path(__file__).parents[1] / "golden")
# float32 on CUDA is compared without TF32, at the tolerance that the files state for it.
DEVICES = [
    pytest.param("cpu", id="cpu"),
    pytest.param("cuda", id="cuda", marks=pytest.mark.gpu),
]
TOLERANCES = {"cpu": "fp32_cpu", "cuda": "fp32_gpu_tf32_off"}
# Input gradients have no stated tolerance. The outputs' is 50 times their change under an input
# noise of 1e-6; the same share of the largest gradient, and ten times that on CUDA as there.
GRADIENT_TOLERANCE = {"cpu": 5e-5, "cuda": 5e-4}


class GoldenCase(NamedTuple):
    kwargs: dict[str, Any]
    parameters: dict[str, Tensor]  # under their official names
    tensors: dict[str, Tensor]  # input, output, feat/..., extra/...
    facts: dict[str, Any]


def golden_names(family: str) -> list[str]:
    return sorted(file.stem for file in (GOLDEN / family).glob("*.safetensors"))


def load_golden(family: str, name: str) -> GoldenCase:
    facts = json.loads((GOLDEN / family / f"{name}.json").read_text())
    tensors = load_file(GOLDEN / family / f"{name}.safetensors")
    parameters = {k.removeprefix("param/"): v for k, v in tensors.items() if k.startswith("param/")}
    others = {k: v for k, v in tensors.items() if not k.startswith("param/")}
    return GoldenCase(facts["kwargs"], parameters, others, facts)


def manifest(family: str) -> dict[str, Any]:
    """What the family's authors publish. Files are of two forms; the older one's names are used."""
    found = json.loads((GOLDEN / family / "manifest.json").read_text())
    for variant in found["variants"]:
        if "constructor_kwargs" in variant:
            variant["kwargs"] = variant["constructor_kwargs"]
            variant["params_measured"] = variant["total_params"]
            variant["img_size"] = variant["input_resolution"]
            found["preprocessing"] = variant["preprocessing"]  # of all variants alike
    return found


def assert_golden(case: GoldenCase, actual: dict[str, Tensor], device: str) -> None:
    """Every output and feature of the case is there, within its tolerance."""
    expected = {k for k in case.tensors if k == "output" or k.startswith("feat/")}
    assert expected <= actual.keys()
    for name in sorted(expected):
        rtol, atol = stated_tolerance(case.facts, name, device)
        torch.testing.assert_close(
            actual[name].detach().cpu(),
            case.tensors[name],
            rtol=rtol,
            atol=atol,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def stated_tolerance(facts: dict[str, Any], name: str, device: str) -> tuple[float, float]:
    """rtol and atol of a tensor; where the file states none for CUDA, ten times the CPU's."""
    if "tolerances" in facts:
        tolerance = facts["tolerances"][TOLERANCES[device]]
        return tolerance["rtol"], tolerance["atol"][name]
    factor = 1 if device == "cpu" else 10
    return factor * facts["tolerance"]["rtol"], factor * facts["tolerance"]["atol"]


def assert_golden_gradient(case: GoldenCase, gradient: Tensor, device: str) -> None:
    expected = case.tensors["extra/grad_input"]
    atol = GRADIENT_TOLERANCE[device] * expected.abs().max().item()
    torch.testing.assert_close(gradient.cpu(), expected, rtol=0, atol=atol)


def record_outputs(model: nn.Module, modules: dict[str, str]) -> dict[str, Tensor]:
    """A dict that the next forward pass fills: golden name -> output of that submodule as NCHW."""
    found: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(module, args, output):
            found[name] = output.permute(0, 3, 1, 2)

        return hook

    for name, path in modules.items():
        model.get_submodule(path).register_forward_hook(keep(name))
    return found


def official_weights(model: nn.Module, layout: OfficialLayout) -> dict[str, Tensor]:
    """The weights of one of our models as the official code would save them."""
    weights = {}
    for own, value in model.state_dict().items():
        parts = layout.names.get(own, own)
        if isinstance(parts, str):
            weights[parts] = value
        else:
            weights.update(zip(parts, value.chunk(len(parts)), strict=True))
    return weights
