"""VMamba's published files, their older keys and stored configuration; and scans of any kind."""

from __future__ import annotations

import pickle
import sys
import types

import pytest
import timm
import torch
from timm.models._features_fx import create_feature_extractor

from tests.models.golden import manifest, official_weights
from visionssm.models.vmamba import checkpoint_filter_fn, official_layout
from visionssm.scans import Scan, both_ways, hilbert, register_scan, registry

SMALL = {"depths": (1, 1), "dims": (8, 16), "num_classes": 5}
VARIANTS = {variant["name"]: variant for variant in manifest("vmamba")["variants"]}


def old_key(key: str) -> str:
    """What the first release called a parameter (manifest: checkpoint_nesting)."""
    for new, old in [
        ("patch_embed.0.", "patch_embed.proj."),
        ("patch_embed.2.", "patch_embed.norm."),
        ("classifier.norm.", "norm."),
        ("classifier.head.", "head."),
        (".op.", ".self_attention."),
    ]:
        key = key.replace(new, old)
    blocks = ".blocks." in key
    return key.replace(".norm.", ".ln_1.") if blocks and "norm2" not in key else key


@pytest.mark.parametrize("age", ["old", "convolutions"])
@pytest.mark.parametrize("name", VARIANTS)
def test_published_keys_of_other_ages_load_strictly(name, age):
    state_dict = {k: torch.empty(s, device="meta") for k, s in VARIANTS[name]["state_dict"]}
    if age == "old":
        state_dict = {old_key(k): v for k, v in state_dict.items()}
    else:
        state_dict = {
            k: v[..., None, None] if v.dim() == 2 and "A_logs" not in k else v
            for k, v in state_dict.items()
        }
    with torch.device("meta"):
        model = timm.create_model(name)
    model.load_state_dict(checkpoint_filter_fn(state_dict, model), strict=True)


def test_a_file_with_the_official_configuration_object_loads_without_its_code(
    tmp_path, monkeypatch
):
    module = types.ModuleType("yacs.config")
    node = type("CfgNode", (dict,), {"__module__": "yacs.config", "__qualname__": "CfgNode"})
    module.CfgNode = node
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    config = node(MODEL=node(NAME="vssm"))
    config.__dict__["__immutable__"] = True
    saved, file = timm.create_model("vmamba_pico", **SMALL), tmp_path / "official.pth"
    weights = official_weights(saved, official_layout(saved))
    torch.save({"model": weights, "epoch": 3, "config": config}, file)
    monkeypatch.delitem(sys.modules, "yacs.config")
    monkeypatch.delitem(sys.modules, "yacs")
    overlay = {"file": str(file), "num_classes": 5}
    loaded = timm.create_model("vmamba_pico", True, pretrained_cfg_overlay=overlay, **SMALL)
    assert torch.equal(loaded.head.fc.weight, saved.head.fc.weight)
    with pytest.raises(pickle.UnpicklingError):  # nowhere else is the object read
        torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "scan",
    ["hilbert", "atrous(step=2)", pytest.param(Scan("mine", hilbert, num_routes=4), id="a Scan")],
)
def test_published_weights_load_under_any_scan_of_four_routes(scan, tmp_path):
    saved = timm.create_model("vmamba_pico", **SMALL).eval()
    with torch.no_grad():
        for (
            parameter
        ) in saved.parameters():  # initial step sizes hardly tell one order from another
            parameter += 0.3 * torch.randn_like(parameter)
    torch.save({"model": official_weights(saved, official_layout(saved))}, tmp_path / "all.pth")
    overlay = {"file": str(tmp_path / "all.pth"), "num_classes": 5}
    model = timm.create_model(
        "vmamba_pico", True, pretrained_cfg_overlay=overlay, scan=scan, **SMALL
    ).eval()
    assert all(torch.equal(v, saved.state_dict()[k]) for k, v in model.state_dict().items())
    image = torch.randn(1, 3, 32, 32)
    assert not torch.allclose(model(image), saved(image))


def test_published_weights_are_refused_under_a_scan_of_other_routes(tmp_path):
    saved = timm.create_model("vmamba_pico", **SMALL)
    torch.save(official_weights(saved, official_layout(saved)), tmp_path / "all.pth")
    overlay = {"file": str(tmp_path / "all.pth"), "num_classes": 5}
    with pytest.raises(RuntimeError, match=r"stages\.1\.blocks\.0\.op\.scan: 'bidirectional' has"):
        timm.create_model(
            "vmamba_pico", True, pretrained_cfg_overlay=overlay, scan="bidirectional", **SMALL
        )


def test_a_scan_of_ones_own_works_by_name_in_a_whole_model(monkeypatch):
    """Registered as the README shows; the registration ends with the test."""
    monkeypatch.setattr(registry, "_registered", registry._registered.copy())
    monkeypatch.setattr(registry, "_scans", registry._scans.copy())

    @register_scan()
    def columns_first(grid, device=None):
        height, width = grid
        order = torch.arange(height * width, dtype=torch.int32, device=device)
        return both_ways(order.view(height, width).t().reshape(1, -1))

    model = timm.create_model("vmamba_pico", scan="columns_first", **SMALL)
    assert [m.scan.name for m in model.modules() if hasattr(m, "scan_map")] == ["columns_first"] * 2
    image = torch.randn(2, 3, 32, 48)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image), model(image))
    model(image).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_unknown_scans_are_named():
    with pytest.raises(ValueError, match="scan: expected one of"):
        timm.create_model("vmamba_pico", scan="nowhere")


def test_a_symbolic_trace_keeps_any_scan():
    model = timm.create_model("vmamba_pico", scan="multi_head", **SMALL).eval()
    traced = create_feature_extractor(model, ["stages.1.blocks.0"])
    image = torch.randn(1, 3, 32, 48)
    expected = model.forward_intermediates(image, output_fmt="NHWC", intermediates_only=True)[1]
    torch.testing.assert_close(next(iter(traced(image).values())), expected)
