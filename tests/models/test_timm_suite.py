"""What timm's own test suite asks of a model (huggingface/pytorch-image-models,
tests/test_models.py), asked of every registered model of ours.

The smallest model of each kind, which is a family's models of the same layers and strides, runs on
images as small as its stride allows; others of the kind are wider or deeper. What a model's own
entry says is checked of every one, on the meta device, and what traces models sees a small one of
each family. Models for images of one size are built for those; models of token sequences, and those
that classify from hidden states, have maps as intermediates alone.
"""

from __future__ import annotations

import functools
import math

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.models._features_fx import create_feature_extractor, get_graph_node_names
from timm.optim import param_groups_layer_decay
from torch import nn

import visionssm

from .small import SMALL

SIZE = 64
NAMES = visionssm.list_models()


def build(name: str, device: str = "cpu", **kwargs) -> nn.Module:
    torch.manual_seed(0)
    if timm.get_pretrained_cfg(name).fixed_input_size:
        kwargs.setdefault("img_size", SIZE)
    with torch.device(device):
        return timm.create_model(name, **kwargs)


def published_size(name: str) -> dict[str, tuple[int, int]]:
    """Arguments that build a model for the images of its published weights."""
    cfg = timm.get_pretrained_cfg(name)
    return {"img_size": cfg.input_size[1:]} if cfg.fixed_input_size else {}


@functools.cache
def described(name: str) -> nn.Module:
    """The model on the meta device, to be looked at alone."""
    return build(name, "meta")


def num_params(name: str) -> int:
    return sum(p.numel() for p in described(name).parameters())


def maps_only(name: str) -> bool:
    """Whether every feature of the model is a map, the final one included."""
    return described(name).output_fmt != "NLC" and not has_hidden_states(name)


def has_hidden_states(name: str) -> bool:
    """Whether features are a list, each with a head: hidden states and the last map, (b, c, l)."""
    return not isinstance(timm.get_pretrained_cfg(name).classifier, str)


def family(name: str) -> str:
    return timm.model_entrypoint(name).__module__


def kind(name: str) -> tuple:
    model = described(name)
    strides = tuple(info["reduction"] for info in model.feature_info)
    return family(name), strides, frozenset(type(m) for m in model.modules())


SIZES = sorted(NAMES, key=num_params)
KINDS = sorted({kind(name): name for name in reversed(SIZES)}.values())  # the smallest of each
every_name = pytest.mark.parametrize("name", NAMES)
every_kind = pytest.mark.parametrize("name", KINDS)
small_one_of_each_family = pytest.mark.parametrize("name", SMALL)


def images(
    batch: int = 1, size: int = SIZE, device: str = "cpu", channels: int = 3
) -> torch.Tensor:
    return torch.randn(batch, channels, size, size, device=device)


def classifier_names(model: nn.Module) -> list[str]:
    names = model.default_cfg["classifier"]
    return [names] if isinstance(names, str) else list(names)


def classifier_layers(model: nn.Module) -> list[nn.Module]:
    """The linear layers of what `get_classifier` returns: of one head, several, or pairs."""
    heads = model.get_classifier()
    heads = heads if isinstance(heads, tuple) else (heads,)
    return [m for head in heads for m in head.modules() if isinstance(m, nn.Linear)]


def shapes(features: torch.Tensor | list[torch.Tensor]) -> list[torch.Size]:
    return [x.shape for x in (features if isinstance(features, list) else [features])]


def spatial(model: nn.Module, features: torch.Tensor | list[torch.Tensor]) -> tuple[int, int]:
    if isinstance(features, list):
        return (math.isqrt(features[-1].shape[2]),) * 2
    if model.output_fmt == "NLC":
        assert features.shape[1:] == (model.pos_embed.shape[1], model.num_features)
        return model.patch_embed.grid_size
    return tuple(features.shape[1:3] if model.output_fmt == "NHWC" else features.shape[2:])


def side(model: nn.Module, reduction: int) -> int:
    """Height and width of the map of that reduction."""
    if model.output_fmt == "NLC":  # of patches that may overlap
        return (SIZE - model.patch_embed.patch_size) // reduction + 1
    return SIZE // reduction


def test_every_family_has_a_small_model():
    assert sorted(map(family, SMALL)) == sorted(set(map(family, NAMES)))
    assert len(KINDS) > len(SMALL)


def test_every_model_is_listed():
    assert NAMES == sorted(NAMES)
    assert "vmamba_pico" in NAMES
    assert visionssm.list_models("*_tiny_*") == [n for n in NAMES if "_tiny_" in n]
    assert "resnet50" not in NAMES


@every_kind
def test_forward_is_the_same_with_gradient_checkpointing(name):
    model = build(name).eval()
    x = images()
    out = model(x)
    assert out.shape == (1, model.num_classes)
    assert out.isfinite().all()
    model.set_grad_checkpointing()
    torch.testing.assert_close(model(x), out, rtol=1e-4, atol=1e-5)


@every_kind
def test_backward_gives_every_parameter_a_gradient(name):
    model = build(name, num_classes=42, drop_path_rate=0.1).train()
    out = model(images(2))
    assert out.shape == (2, 42)
    out.mean().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or p.grad.isnan().any()]
    assert not missing


def test_gradients_are_the_same_with_checkpointing():
    gradients = []
    for checkpointing in (False, True):
        model = build(SIZES[0]).train()
        model.set_grad_checkpointing(checkpointing)
        torch.manual_seed(1)
        model(images(2)).square().mean().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    torch.testing.assert_close(*gradients)


@every_name
def test_default_cfg_describes_the_model(name):
    model = build(name, "meta", **published_size(name)).eval()
    keys, cfg = model.state_dict().keys(), model.default_cfg
    for layer in (*classifier_names(model), cfg["first_conv"]):
        assert layer + ".weight" in keys
    assert classifier_layers(model) == [model.get_submodule(n) for n in classifier_names(model)]
    assert isinstance(model.num_features, int)
    for entry in ("mean", "std", "crop_pct", "interpolation", "license"):
        assert cfg[entry], entry

    x = torch.randn(1, *cfg["input_size"], device="meta")
    features = model.forward_features(x)
    assert spatial(model, features) == cfg["pool_size"]
    assert model.forward_head(features).shape == (1, cfg["num_classes"])
    assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
    model.reset_classifier(0)
    assert model(x).shape == (1, model.num_features)
    model.reset_classifier(0, "")
    assert spatial(model, model(x)) == cfg["pool_size"]
    model.reset_classifier(7, "avg")
    assert model(x).shape == (1, 7)
    assert model.num_classes == 7


@every_kind
def test_any_image_size_and_channel_count(name):
    model = build(name, "meta", in_chans=1, num_classes=5)
    for size in [(33, 70), (64, 224)]:
        model.set_input_size(size)
        assert model(torch.randn(1, 1, *size, device="meta")).shape == (1, 5)
    with pytest.raises(ValueError, match="patch_size: expected"):
        model.set_input_size(patch_size=1000)


@pytest.mark.parametrize(
    ("name", "feature_cls"),
    [(name, None) for name in KINDS]
    + [(name, cls) for name in KINDS if maps_only(name) for cls in ("list", "dict", "hook")],
)
def test_features_only(name, feature_cls):
    options = {} if feature_cls is None else {"feature_cls": feature_cls}
    model = build(name, "meta", features_only=True, **options).eval()
    channels, reductions = model.feature_info.channels(), model.feature_info.reduction()
    assert len(channels) >= 3
    maps = model(images(device="meta"))
    maps = list(maps.values()) if isinstance(maps, dict) else maps
    nhwc = model.output_fmt == "NHWC"
    assert len(maps) == len(channels)
    for x, c, r in zip(maps, channels, reductions, strict=True):
        s = side(described(name), r)
        assert x.shape == ((1, s, s, c) if nhwc else (1, c, s, s))


@small_one_of_each_family
def test_feature_extractors_return_the_intermediates(name):
    model = build(name, **SMALL[name]).eval()
    x = images()
    with torch.no_grad():
        features, maps = model.forward_intermediates(x)
        torch.testing.assert_close(features, model.forward_features(x))
        state = model.state_dict()
        for options in ({}, {"feature_cls": "fx"}) if maps_only(name) else ({},):
            options |= {"features_only": True, "out_indices": tuple(range(len(maps)))}
            extractor = build(name, **SMALL[name], **options).eval()
            inner = extractor.model if hasattr(extractor, "model") else extractor.graph_module
            inner.load_state_dict({k: v for k, v in state.items() if k in inner.state_dict()})
            nhwc = extractor.output_fmt == "NHWC"
            chosen = [maps[i] for i in extractor.feature_info.out_indices]
            for got, expected in zip(extractor(x), chosen, strict=True):
                torch.testing.assert_close(got.permute(0, 3, 1, 2) if nhwc else got, expected)


@every_kind
def test_intermediates_by_index_format_and_norm(name):
    model = build(name, "meta").eval()
    x, last = images(device="meta"), len(model.feature_info) - 1
    channels = [info["num_chs"] for info in model.feature_info]
    final, maps = model.forward_intermediates(x, indices=2)
    assert [m.shape[1] for m in maps] == channels[-2:]
    assert shapes(final) == shapes(model.forward_features(x))
    maps = model.forward_intermediates(
        x, indices=[0, -1], norm=True, output_fmt="NHWC", intermediates_only=True
    )
    assert [m.shape[-1] for m in maps] == [channels[0], channels[last]]
    final, maps = model.forward_intermediates(x, indices=[0], stop_early=True)
    if maps_only(name):
        assert final.shape == (1, SIZE // 4, SIZE // 4, channels[0])
    elif has_hidden_states(name):
        assert [f.shape[:2] for f in final] == [(1, channels[0])] * 2
    else:
        assert final.shape == model.forward_features(x).shape
    with pytest.raises(ValueError, match="output_fmt: expected"):
        model.forward_intermediates(x, output_fmt="NLC")


def test_stopping_early_gives_the_same_maps():
    model = build(SIZES[0]).eval()
    x = images()
    early = model.forward_intermediates(x, [1], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(early, model.forward_intermediates(x, [1], intermediates_only=True))
    normed = model.forward_intermediates(x, [-1], norm=True, intermediates_only=True)[0]
    torch.testing.assert_close(normed.permute(0, 2, 3, 1), model.forward_features(x))


@every_kind
def test_pruned_models_keep_what_the_intermediates_need(name):
    model = build(name, "meta").eval()
    full = num_params(name)
    assert model.prune_intermediate_layers([0, 1]) == [0, 1]
    assert sum(p.numel() for p in model.parameters()) < full / 2
    maps = model.forward_intermediates(images(device="meta"), [0, 1], intermediates_only=True)
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info[:2]]
    hidden = [m.shape[1] for m in maps] if has_hidden_states(name) else []
    assert model.num_features == sum(hidden) + maps[-1].shape[1]
    assert not classifier_layers(model)


@small_one_of_each_family
def test_symbolic_trace_computes_the_same(name):
    model = build(name, num_classes=42, **SMALL[name]).train()
    x = images(2)
    last = get_graph_node_names(model)[0][-1]
    traced = create_feature_extractor(model, [last])
    out = traced(x)[last]
    torch.testing.assert_close(out, model(x))
    out.mean().backward()
    assert all(p.grad is not None for p in traced.parameters())


@small_one_of_each_family
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_torchscript_by_tracing(name):
    """TorchScript cannot compile the scan from source: its argument checks, keyword-only arguments
    and dispatch are Python. A trace records the operator that they end in."""
    model = build(name, **SMALL[name]).eval()
    x = images()
    with torch.no_grad():
        traced = torch.jit.trace(model, x, check_trace=False)
        torch.testing.assert_close(traced(x), model(x))


@every_name
def test_parameter_groups_cover_every_parameter_once(name):
    model = build(name, "meta")
    names = {n for n, _ in model.named_parameters()}
    assert model.no_weight_decay() <= names
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse))
        assert sorted(n for group in groups.values() for n in group) == sorted(names)
        assert len(groups) > len(model.feature_info)
    scaled = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.9)
    assert sum(len(group["params"]) for group in scaled) == len(names)
    assert min(group["lr_scale"] for group in scaled) < 1


@every_kind
def test_device_and_dtype_reach_the_parameters(name):
    model = build(name, device="meta", dtype=torch.bfloat16)
    assert all(p.device.type == "meta" for p in model.parameters())
    assert {layer.weight.dtype for layer in classifier_layers(model)} == {torch.bfloat16}
    out = model(images(2, device="meta").bfloat16())
    assert out.dtype == torch.bfloat16
    model.reset_classifier(3)
    assert {layer.weight.dtype for layer in classifier_layers(model)} == {torch.bfloat16}
