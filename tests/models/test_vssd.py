"""VSSD: options of the official code, and what it says of arguments that do not fit."""

from __future__ import annotations

import pytest
import torch

import visionssm
from tests.models.golden import official_weights
from visionssm.models.official import _builders
from visionssm.models.vssd import VSSD

BASE = {
    "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 4], "num_classes": 5, "d_state": 4,
    "attn_types": ["mamba2", "standard"], "linear_attn_duality": True,
}  # fmt: skip


def weights_of(**options) -> tuple[dict, dict[str, torch.Tensor]]:
    """Arguments and a random state dict that fits them, under official names."""
    kwargs = {**BASE, **options}
    model, layout = _builders["vssd"](kwargs)
    torch.manual_seed(0)
    weights = {
        key: torch.randn_like(value) / 3 if value.is_floating_point() else value
        for key, value in official_weights(model, layout).items()
    }
    return kwargs, {k: v.abs() if k.endswith("running_var") else v for k, v in weights.items()}


@pytest.mark.parametrize(("options", "shapes"), [
    (
        {"simple_patch_embed": True},
        {"patch_embed.conv1.conv.weight": (8, 3, 4, 4), "patch_embed.norm.weight": (8,)},
    ),
    (
        {"simple_downsample": True},
        {
            "layers.0.downsample.conv.0.conv.weight": (16, 8, 3, 3),
            "layers.0.downsample.conv.0.conv.bias": (16,),
            "layers.0.downsample.norm.weight": (16,),
        },
    ),
    (
        {"ssd_ngroups": 2, "ssd_expansion": 4},
        {
            "layers.0.blocks.0.attn.in_proj.weight": (2 * 32 + 2 * 2 * 4 + 2, 8),
            "layers.0.blocks.0.attn.conv2d.weight": (32 + 2 * 2 * 4, 1, 3, 3),
        },
    ),
    (
        {"attn_types": ["standard", "mamba2"], "mlp_ratio": 2.0},
        {
            "layers.0.blocks.0.attn.to_qkv.weight": (24, 8),
            "layers.0.blocks.0.mlp.fc1.weight": (16, 8),
            "layers.1.blocks.0.attn.A_log": (4,),
        },
    ),
    ({"in_chans": 1}, {"patch_embed.conv1.conv.weight": (4, 1, 3, 3)}),
])  # fmt: skip
def test_options_have_the_official_names_and_shapes(options, shapes):
    kwargs, weights = weights_of(**options)
    assert {key: tuple(weights[key].shape) for key in shapes} == shapes
    model = visionssm.from_official("vssd", kwargs, weights)
    out = model(torch.randn(2, kwargs.get("in_chans", 3), 32, 48))
    assert out.shape == (2, 5)
    assert out.isfinite().all()


def test_the_sign_of_the_weights_is_read():
    kwargs, weights = weights_of(attn_types=["mamba2", "mamba2"])
    image = torch.randn(1, 3, 32, 32)
    one, other = (
        visionssm.from_official("vssd", {**kwargs, "ssd_positve_dA": sign}, weights)(image)
        for sign in (True, False)
    )
    assert not torch.allclose(one, other)


def test_arguments_without_effect_change_nothing():
    kwargs, weights = weights_of()
    image = torch.randn(1, 3, 32, 32)
    ignored = {"img_size": 64, "image_size": 1, "patch_size": 8, "ssd_chunk_size": 7}
    one, other = (
        visionssm.from_official("vssd", {**kwargs, **more}, weights)(image)
        for more in ({}, {**ignored, "ssd_expand": 3, "qkv_bias": False})
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize(("options", "message"), [
    ({"linear_attn_duality": False}, r"linear_attn_duality: expected one of \[True\], got False"),
    ({"bidirection": True}, "bidirection: expected False"),
    ({"lepe": True}, "lepe: expected False"),
    ({"attn_types": ["mamba2", "swin"]}, "attn_types: expected one of"),
    ({"attn_types": ["mamba2"]}, "mixers: expected 2 stages"),
    ({"num_heads": [2, 4, 8]}, "num_heads: expected 2 stages"),
    ({"num_heads": [3, 4]}, "num_heads: expected a divisor of 16 channels, got 3"),
    ({"depth": 3}, "kwargs: VSSD has no option depth"),
])  # fmt: skip
def test_unsupported_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        visionssm.from_official("vssd", {**BASE, **options}, {})


@pytest.mark.parametrize(("options", "message"), [
    ({"stem": "swin"}, "stem: expected one of"),
    ({"downsample": "swin"}, "downsample: expected one of"),
    ({"mixers": ("ssd", "ssd", "ssd", "swin")}, "mixers: expected one of"),
])  # fmt: skip
def test_unknown_parts_are_named(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        VSSD(**options)
