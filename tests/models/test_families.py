"""Every family against its official code: goldens, published configurations, weights.

A family is an entry of FAMILIES; what it alone has is tested in its own file.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import timm
import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

import visionssm
from tests.models.golden import (
    DEVICES,
    assert_golden,
    assert_golden_gradient,
    golden_names,
    load_golden,
    manifest,
    official_weights,
    record_outputs,
)
from visionssm.cli.convert import recognise
from visionssm.models import efficientvim, efficientvmamba, spatial_mamba, vim, vmamba, vssd


class Family(NamedTuple):
    """What the tests need to know of a family.

    `variants` are the manifest's, by the name (and tag) that timm knows them under; `observe` runs
    a classifier on an image and gives every golden tensor by name.
    """

    module: ModuleType  # has official_layout and checkpoint_filter_fn
    variants: dict[str, dict[str, Any]]
    url: Callable[[dict[str, Any]], str]  # of a variant's weights
    license: str
    observe: Callable[[nn.Module, Tensor], dict[str, Tensor]]
    small: tuple[str, dict[str, Any]]  # a registered model, and sizes that make it tiny
    undecayed: tuple[str, ...] = ()  # parameters without weight decay beside vectors and biases


def observe_stages(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Stem, stages before they are downsampled, downsampled maps, pooled features, logits."""
    modules = {"feat/stem": "stem"}
    modules |= {f"feat/down{i - 1}": f"stages.{i}.downsample" for i in range(1, len(model.stages))}
    found = record_outputs(model, modules)
    found["output"] = model(image)
    features, maps = model.forward_intermediates(image)
    found |= {f"feat/{i}": x for i, x in enumerate(maps)}
    return found | {"feat/pooled": model.forward_head(features, pre_logits=True)}


def observe_vssd(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Features are token sequences (b, l, c)."""
    found = observe_stages(model, image)
    return {
        name: x.flatten(2).transpose(1, 2) if name.startswith("feat/") and x.dim() == 4 else x
        for name, x in found.items()
    }


def observe_efficientvmamba(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Features are channels-last."""
    found = observe_stages(model, image)
    return {
        name: x.permute(0, 2, 3, 1) if name.startswith("feat/") and x.dim() == 4 else x
        for name, x in found.items()
    }


def observe_vim(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Before block i the stream is the official residual i; the mixer's output is feature i."""
    found: dict[str, Tensor] = {}
    for i, block in enumerate(model.blocks):
        block.register_forward_pre_hook(
            lambda module, args, i=i: found.update({f"feat/res{i}": args[0]})
        )
        block.ls.register_forward_hook(
            lambda module, args, output, i=i: found.update({f"feat/{i}": output})
        )
    features = model.forward_features(image)
    found["feat/tokens"] = found["feat/res0"]
    found["feat/pooled"] = model.forward_head(features, pre_logits=True)
    return found | {"output": model.forward_head(features)}


def observe_efficientvim(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Stem, maps, downsampled maps and hidden states of the stages; what each head says."""
    found: dict[str, Tensor] = {}

    def record(module: nn.Module, *names: str) -> None:
        def keep(module, args, output):
            outputs = output if isinstance(output, tuple) else (output,)
            found.update(zip((f"feat/{name}" for name in names), outputs, strict=True))

        module.register_forward_hook(keep)

    record(model.patch_embed, "stem")
    for i, stage in enumerate(model.stages):
        record(stage, f"{i}", f"down{i}", f"h{i}")
    names = {"": ("heads", "weights"), "dist": ("heads_dist", "weights_dist")}
    names = {key: pair for key, pair in names.items() if hasattr(model, pair[0])}
    for suffix, (heads, _) in names.items():
        for i, head in enumerate(getattr(model, heads)):
            record(head, f"head{suffix}{i}")
    found["output"] = model(image)
    for suffix, (_, weights) in names.items():
        shares = getattr(model, weights).softmax(0)
        said = [share * found[f"feat/head{suffix}{i}"] for i, share in enumerate(shares)]
        found[f"feat/z{suffix}"] = sum(said)
    return found


def variants(family: str, **names: str) -> dict[str, dict[str, Any]]:
    """The manifest's variants by our names; `names` translates those that the authors publish."""
    published = manifest(family)["variants"]
    if not names:
        return {variant["name"]: variant for variant in published}
    by_name = {variant["published_name"]: variant for variant in published}
    assert by_name.keys() == set(names.values())
    return {own: by_name[name] for own, name in names.items()}


def vssd_variants() -> dict[str, dict[str, Any]]:
    """A model's second checkpoint is of the training with MESA."""
    found = {}
    for variant in manifest("vssd")["variants"]:
        for checkpoint, tag in zip(variant["checkpoints"], ("", ".mesa_in1k"), strict=False):
            found[variant["name"] + tag] = {**variant, "checkpoint_url": checkpoint["url"]}
    return found


def efficientvmamba_variants() -> dict[str, dict[str, Any]]:
    """The authors give a page of files for each model, and write efficient_vmamba."""
    return {
        variant["name"].replace("_", "", 1): {
            **variant,
            "checkpoint_url": variant["checkpoints"][0]["url"],
        }
        for variant in manifest("efficientvmamba")["variants"]
    }


def direct_download(variant: dict[str, Any]) -> str:
    """The file that a Google Drive page of the manifest is about."""
    file = re.fullmatch(r"https://drive\.google\.com/file/d/(\w+)/.*", variant["checkpoint_url"])
    return f"https://drive.usercontent.google.com/download?id={file[1]}&export=download&confirm=t"


def efficientvim_variants() -> dict[str, dict[str, Any]]:
    """EfficientViM_M1_e300 is our ssm_efficientvim_m1.e300_in1k; keys are listed once a model."""
    found: dict[str, dict[str, Any]] = {}
    keys: dict[tuple[str, bool], Any] = {}
    for variant in manifest("efficientvim")["variants"]:
        size, form = variant["name"].lower().removeprefix("efficientvim_").split("_")
        tag = "_dist.in1k" if form == "dist" else f".{form}_in1k"
        listed = keys.setdefault((size, form == "dist"), variant["state_dict"])
        found[f"ssm_efficientvim_{size}{tag}"] = {**variant, "state_dict": listed}
    return found


FAMILIES = {
    "efficientvim": Family(
        efficientvim,
        efficientvim_variants(),
        lambda variant: variant["checkpoint_url"],
        "mit",
        observe_efficientvim,
        (
            "ssm_efficientvim_m1",
            {"embed_dim": (16, 24, 32), "depths": (1, 1, 1), "state_dim": (5, 4, 3)},
        ),
    ),
    "efficientvmamba": Family(
        efficientvmamba,
        efficientvmamba_variants(),
        lambda variant: variant["checkpoint_url"],
        "none given",
        observe_efficientvmamba,
        ("efficientvmamba_tiny", {"depths": (1, 1, 1), "dims": (8, 16, 24)}),
    ),
    "spatialmamba": Family(
        spatial_mamba,
        variants(
            "spatialmamba",
            spatial_mamba_tiny="Spatial-Mamba-T",
            spatial_mamba_small="Spatial-Mamba-S",
            spatial_mamba_base="Spatial-Mamba-B",
        ),
        direct_download,
        "apache-2.0",
        observe_stages,
        ("spatial_mamba_tiny", {"depths": (1, 1), "dims": (8, 16)}),
    ),
    "vmamba": Family(
        vmamba,
        variants("vmamba"),
        lambda variant: variant["checkpoint_url"],
        "mit",
        observe_stages,
        ("vmamba_pico", {"depths": (1, 1), "dims": (8, 16)}),
    ),
    "vim": Family(
        vim,
        variants(
            "vim",
            vim_tiny="Vim-tiny",
            vim_tiny_plus="Vim-tiny+",
            vim_small="Vim-small",
            vim_small_plus="Vim-small+",
            vim_base="Vim-base",
        ),
        lambda variant: (
            f"{variant['checkpoint_url']}/resolve/main/"
            + variant["checkpoint_file_name_from_memory_unverified"]
        ),
        "apache-2.0",
        observe_vim,
        ("vim_tiny", {"depth": 2, "embed_dim": 32, "d_state": 4}),
        undecayed=("cls_token", "pos_embed"),
    ),
    "vssd": Family(
        vssd,
        vssd_variants(),
        lambda variant: variant["checkpoint_url"],
        "none given",
        observe_vssd,
        (
            "vssd_tiny",
            {
                "depths": (1, 1),
                "dims": (8, 16),
                "num_heads": (2, 4),
                "d_state": 5,
                "mixers": ("ssd", "attention"),
            },
        ),
    ),
}
each_family = pytest.mark.parametrize("family", FAMILIES)
each_variant = pytest.mark.parametrize(
    ("family", "name"), [(f, name) for f in FAMILIES for name in FAMILIES[f].variants]
)
each_golden = pytest.mark.parametrize(
    ("family", "name"), [(f, name) for f in FAMILIES for name in golden_names(f)]
)


@pytest.fixture(autouse=True)
def no_tf32():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
    torch.set_float32_matmul_precision(before)


def meta_model(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name)


def official_state_dict(family: str, name: str) -> dict[str, Tensor]:
    """Keys and shapes of the published file, without values."""
    keys = FAMILIES[family].variants[name]["state_dict"]
    return {key: torch.empty(shape, device="meta") for key, shape in keys}


@pytest.mark.parametrize("device", DEVICES)
@each_golden
def test_golden_case(family, name, device):
    """Logits and features, or a dense backbone's maps, and the gradient of the image."""
    case = load_golden(family, name)
    model = visionssm.from_official(family, case.kwargs, case.parameters).to(device)
    if "num_params" in case.facts:
        assert sum(p.numel() for p in model.parameters()) == case.facts["num_params"]
    image = case.tensors["input"].to(device).requires_grad_()
    if hasattr(model, "get_classifier"):
        found = FAMILIES[family].observe(model, image)
        loss = found["output"].square().sum()
    else:
        maps = model(image)
        found = {f"feat/{i}": x for i, x in enumerate(maps)} | {"output": maps[-1]}
        loss = sum(x.square().sum() for x in maps)
    assert_golden(case, found, device)
    if "extra/grad_input" in case.tensors:
        loss.backward()
        assert_golden_gradient(case, image.grad, device)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@each_golden
def test_autocast_on_cuda_stays_near(family, name, dtype):
    """Rounding to the dtype at each layer: a few parts in its precision of the largest value."""
    case = load_golden(family, name)
    model = visionssm.from_official(family, case.kwargs, case.parameters).cuda()
    with torch.autocast("cuda", dtype=dtype):
        out = model(case.tensors["input"].cuda())
    if isinstance(out, list):
        out, expected = out[-1], case.tensors[f"feat/{len(out) - 1}"]
    else:
        expected = case.tensors["output"]
    error = (out.float().cpu() - expected).abs().max()
    assert error < 10 * torch.finfo(dtype).eps * expected.abs().max()


@each_variant
def test_registered_model_is_the_published_one(family, name):
    variant = FAMILIES[family].variants[name]
    assert sum(p.numel() for p in meta_model(name).parameters()) == variant["params_measured"]
    cfg = timm.get_pretrained_cfg(name)
    assert cfg.url == FAMILIES[family].url(variant)
    assert cfg.license == FAMILIES[family].license
    preprocessing = manifest(family)["preprocessing"]
    assert list(cfg.mean) == preprocessing["mean"]
    assert list(cfg.std) == preprocessing["std"]
    assert cfg.crop_pct == preprocessing["crop_pct"]
    size = variant["img_size"]
    assert (cfg.interpolation, cfg.input_size) == ("bicubic", (3, size, size))


@pytest.mark.parametrize("nesting", [None, "model"])
@each_variant
def test_published_keys_load_strictly(family, name, nesting):
    filter_fn = FAMILIES[family].module.checkpoint_filter_fn
    state_dict = official_state_dict(family, name)
    model = meta_model(name)
    checkpoint = {nesting: state_dict, "epoch": 1} if nesting else state_dict
    converted = filter_fn(checkpoint, model)
    model.load_state_dict(converted, strict=True)  # shapes are compared on the meta device too
    assert filter_fn(converted, model).keys() == converted.keys()


@each_variant
def test_from_official_builds_the_published_configurations(family, name):
    kwargs = FAMILIES[family].variants[name]["kwargs"]
    with torch.device("meta"):
        model = visionssm.from_official(family, kwargs, official_state_dict(family, name))
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    assert shapes == {k: v.shape for k, v in meta_model(name).state_dict().items()}


@each_family
def test_convert_recognises_the_published_keys(family):
    name = next(iter(FAMILIES[family].variants))
    found, weights = recognise({"model": official_state_dict(family, name)})
    assert found == name.split(".")[0]
    assert weights.keys() == meta_model(name).state_dict().keys()


def small_model(family: str, **kwargs) -> nn.Module:
    name, sizes = FAMILIES[family].small
    return timm.create_model(name, **{**sizes, "num_classes": 5, **kwargs})


def load_small(family: str, file: Any, **kwargs) -> nn.Module:
    overlay = {"file": str(file), "num_classes": 5}
    return small_model(family, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)


def small_official_weights(family: str, model: nn.Module) -> dict[str, Tensor]:
    return official_weights(model, FAMILIES[family].module.official_layout(model))


@each_family
def test_a_local_official_file_loads_through_timm_or_not_at_all(family, tmp_path):
    """Training code stores its arguments and progress beside the weights."""
    saved, file = small_model(family), tmp_path / "official.pth"
    weights = small_official_weights(family, saved)
    others = {"args": argparse.Namespace(lr=1e-3), "epoch": 3, "max_accuracy": 82.5}
    torch.save({"model": weights, **others}, file)
    loaded = load_small(family, file)
    assert all(torch.equal(v, saved.state_dict()[k]) for k, v in loaded.state_dict().items())
    needed = [
        key for key in weights if not key.endswith("num_batches_tracked")
    ]  # as PyTorch has it
    for key in needed[:: len(needed) // 4]:
        torch.save({"model": {k: v for k, v in weights.items() if k != key}}, file)
        with pytest.raises(RuntimeError, match="Missing key"):
            load_small(family, file)


@each_family
def test_our_own_weights_load_again(family, tmp_path):
    saved = small_model(family)
    torch.save(saved.state_dict(), tmp_path / "own.pth")
    loaded = load_small(family, tmp_path / "own.pth")
    assert all(torch.equal(v, saved.state_dict()[k]) for k, v in loaded.state_dict().items())


@each_family
def test_other_channels_and_classes_adapt_the_published_weights(family, tmp_path):
    saved, file = small_model(family), tmp_path / "official.pth"
    torch.save(small_official_weights(family, saved), file)
    model = load_small(family, file, num_classes=3, in_chans=1)
    classifiers = saved.default_cfg["classifier"]
    for name in (classifiers,) if isinstance(classifiers, str) else classifiers:
        features = saved.get_submodule(name).in_features
        assert model.get_submodule(name).weight.shape == (3, features)
    first_conv = saved.default_cfg["first_conv"] + ".weight"
    torch.testing.assert_close(
        model.get_parameter(first_conv), saved.get_parameter(first_conv).sum(1, keepdim=True)
    )


@each_family
def test_weight_decay_groups_are_those_of_the_published_training(family):
    """Official rule: none for vectors, names ending in .bias and what the family exempts."""
    model = small_model(family)
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    names = FAMILIES[family].module.official_layout(model).names
    for name, parameter in model.named_parameters():
        parts = (names[name],) if isinstance(names[name], str) else names[name]
        vector = parameter.dim() == 1 or parts[0].endswith(".bias")
        expected = not vector and name not in FAMILIES[family].undecayed
        assert (id(parameter) in decayed) == expected, name
