"""VMamba's published files: their older keys and the configuration stored in them."""

from __future__ import annotations

import pickle
import sys
import types

import pytest
import timm
import torch

from tests.models.golden import manifest, official_weights
from visionssm.models.vmamba import checkpoint_filter_fn, official_layout

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
    sizes = {"depths": (1, 1), "dims": (8, 16), "num_classes": 5}
    saved, file = timm.create_model("vmamba_pico", **sizes), tmp_path / "official.pth"
    weights = official_weights(saved, official_layout(saved))
    torch.save({"model": weights, "epoch": 3, "config": config}, file)
    monkeypatch.delitem(sys.modules, "yacs.config")
    monkeypatch.delitem(sys.modules, "yacs")
    overlay = {"file": str(file), "num_classes": 5}
    loaded = timm.create_model("vmamba_pico", True, pretrained_cfg_overlay=overlay, **sizes)
    assert torch.equal(loaded.head.fc.weight, saved.head.fc.weight)
    with pytest.raises(pickle.UnpicklingError):  # nowhere else is the object read
        torch.load(file, weights_only=True)
