"""VMamba against its official code: goldens, configurations, weights."""

from __future__ import annotations

import pickle
import sys
import types

import pytest
import timm
import torch
from timm.optim import param_groups_weight_decay

import visionssm
from tests.models.golden import (
    DEVICES,
    assert_golden,
    assert_golden_gradient,
    golden_names,
    load_golden,
    manifest,
    record_outputs,
)
from visionssm.models.vmamba import VMamba, checkpoint_filter_fn, official_layout

MANIFEST = manifest("vmamba")
VARIANTS = {variant["name"]: variant for variant in MANIFEST["variants"]}
each_variant = pytest.mark.parametrize("name", VARIANTS)


@pytest.fixture(autouse=True)
def no_tf32():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
    torch.set_float32_matmul_precision(before)


def meta_model(name: str, **kwargs) -> VMamba:
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


def official_state_dict(name: str) -> dict[str, torch.Tensor]:
    """Keys and shapes of the published file, without values."""
    return {key: torch.empty(shape, device="meta") for key, shape in VARIANTS[name]["state_dict"]}


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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [n for n in golden_names("vmamba") if "backbone" not in n])
def test_classifier_equals_the_official_one(name, device):
    case = load_golden("vmamba", name)
    model = visionssm.from_official("vmamba", case.kwargs, case.parameters).to(device)
    assert sum(p.numel() for p in model.parameters()) == case.facts["num_params"]
    modules = {"feat/stem": "stem"}
    modules |= {f"feat/down{i - 1}": f"stages.{i}.downsample" for i in range(1, 4)}
    found = record_outputs(model, modules)
    image = case.tensors["input"].to(device).requires_grad_()
    found["output"] = model(image)
    found["output"].square().sum().backward()
    features, maps = model.forward_intermediates(image)
    found |= {f"feat/{i}": x for i, x in enumerate(maps)}
    found["feat/pooled"] = model.forward_head(features, pre_logits=True)
    assert_golden(case, found, device)
    assert_golden_gradient(case, image.grad, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [n for n in golden_names("vmamba") if "backbone" in n])
def test_dense_backbone_equals_the_official_one(name, device):
    case = load_golden("vmamba", name)
    model = visionssm.from_official("vmamba", case.kwargs, case.parameters).to(device)
    assert sum(p.numel() for p in model.parameters()) == case.facts["num_params"]
    image = case.tensors["input"].to(device).requires_grad_()
    maps = model(image)
    sum(x.square().sum() for x in maps).backward()
    assert_golden(case, {f"feat/{i}": x for i, x in enumerate(maps)}, device)
    assert_golden_gradient(case, image.grad, device)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", golden_names("vmamba"))
def test_autocast_on_cuda_stays_near(name, dtype):
    """Rounding to the dtype at each layer: a few parts in its precision of the largest value."""
    case = load_golden("vmamba", name)
    model = visionssm.from_official("vmamba", case.kwargs, case.parameters).cuda()
    with torch.autocast("cuda", dtype=dtype):
        out = model(case.tensors["input"].cuda())
    out, expected = (
        (out[-1], case.tensors["feat/3"])
        if isinstance(out, list)
        else (out, case.tensors["output"])
    )
    error = (out.float().cpu() - expected).abs().max()
    assert error < 10 * torch.finfo(dtype).eps * expected.abs().max()


@each_variant
def test_registered_model_is_the_published_one(name):
    variant = VARIANTS[name]
    model = meta_model(name)
    assert sum(p.numel() for p in model.parameters()) == variant["params_measured"]
    cfg = timm.get_pretrained_cfg(name)
    assert cfg.url == variant["checkpoint_url"]
    assert cfg.license == "mit"
    preprocessing = MANIFEST["preprocessing"]
    assert list(cfg.mean) == preprocessing["mean"]
    assert list(cfg.std) == preprocessing["std"]
    assert cfg.crop_pct == preprocessing["crop_pct"]
    assert (cfg.interpolation, cfg.input_size) == ("bicubic", (3, 224, 224))


@each_variant
@pytest.mark.parametrize("nesting", [None, "model"])
@pytest.mark.parametrize("age", ["new", "old", "convolutions"])
def test_published_keys_load_strictly(name, nesting, age):
    state_dict = official_state_dict(name)
    if age == "old":
        state_dict = {old_key(k): v for k, v in state_dict.items()}
    if age == "convolutions":
        state_dict = {
            k: v[..., None, None] if v.dim() == 2 and "A_logs" not in k else v
            for k, v in state_dict.items()
        }
    model = meta_model(name)
    checkpoint = {nesting: state_dict, "epoch": 1} if nesting else state_dict
    converted = checkpoint_filter_fn(checkpoint, model)
    model.load_state_dict(converted, strict=True)  # shapes are compared on the meta device too
    assert checkpoint_filter_fn(converted, model).keys() == converted.keys()


@each_variant
def test_from_official_builds_the_published_configurations(name):
    kwargs, state_dict = VARIANTS[name]["kwargs"], official_state_dict(name)
    with torch.device("meta"):
        model = visionssm.from_official("vmamba", kwargs, state_dict)
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    assert shapes == {k: v.shape for k, v in meta_model(name).state_dict().items()}


SMALL = {"depths": (1, 1), "dims": (8, 16), "num_classes": 5}


def small_official_file(path, **entries) -> VMamba:
    """Write a checkpoint as the official training code does, for `vmamba_pico` with SMALL sizes."""
    model = timm.create_model("vmamba_pico", **SMALL)
    names = official_layout(model).names
    weights = {names[k]: v for k, v in model.state_dict().items()}
    torch.save({"model": weights, "epoch": 3, "max_accuracy": 82.5, **entries}, path)
    return model


def load_small(path) -> VMamba:
    overlay = {"file": str(path), "num_classes": 5}
    return timm.create_model("vmamba_pico", True, pretrained_cfg_overlay=overlay, **SMALL)


def test_a_local_official_file_loads_through_timm(tmp_path):
    saved = small_official_file(tmp_path / "official.pth")
    loaded = load_small(tmp_path / "official.pth")
    assert all(torch.equal(v, saved.state_dict()[k]) for k, v in loaded.state_dict().items())


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
    saved = small_official_file(tmp_path / "official.pth", config=config)
    monkeypatch.delitem(sys.modules, "yacs.config")
    monkeypatch.delitem(sys.modules, "yacs")
    loaded = load_small(tmp_path / "official.pth")
    assert torch.equal(loaded.head.fc.weight, saved.head.fc.weight)
    with pytest.raises(pickle.UnpicklingError):  # nowhere else is the object read
        torch.load(tmp_path / "official.pth", weights_only=True)


def test_a_wrong_file_is_refused(tmp_path):
    small_official_file(tmp_path / "official.pth")
    checkpoint = torch.load(tmp_path / "official.pth", weights_only=True)
    del checkpoint["model"]["layers.0.blocks.0.op.A_logs"]
    torch.save(checkpoint, tmp_path / "official.pth")
    with pytest.raises(RuntimeError, match=r"stages\.0\.blocks\.0\.op\.A_logs"):
        load_small(tmp_path / "official.pth")


def test_our_own_weights_load_again(tmp_path):
    saved = timm.create_model("vmamba_pico", **SMALL)
    torch.save(saved.state_dict(), tmp_path / "own.pth")
    loaded = load_small(tmp_path / "own.pth")
    assert torch.equal(loaded.norm.weight, saved.norm.weight)


def test_other_channels_and_classes_adapt_the_published_weights(tmp_path):
    saved = small_official_file(tmp_path / "official.pth")
    model = timm.create_model(
        "vmamba_pico",
        True,
        pretrained_cfg_overlay={"file": str(tmp_path / "official.pth"), "num_classes": 5},
        **{**SMALL, "num_classes": 3, "in_chans": 1},
    )
    assert model.head.fc.weight.shape == (3, 16)
    stem = saved.stem.conv1.weight.sum(1, keepdim=True)
    torch.testing.assert_close(model.stem.conv1.weight, stem)


def test_weight_decay_groups_are_those_of_the_published_training():
    """Official rule: no decay for vectors and for names ending in .bias, decay for all others."""
    model = timm.create_model("vmamba_pico", **SMALL)
    decayed = next(g for g in param_groups_weight_decay(model, 0.05) if g["weight_decay"])
    names = official_layout(model).names
    for name, parameter in model.named_parameters():
        official = names[name]
        expected = parameter.dim() > 1 and not official.endswith(".bias")
        assert any(parameter is p for p in decayed["params"]) == expected, name
