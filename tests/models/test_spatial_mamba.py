"""Spatial-Mamba's own: options of its official code, initial values, where downloads are kept."""

from __future__ import annotations

import pytest
import timm
import torch

import visionssm
from tests.models.golden import official_weights
from visionssm.models.spatial_mamba import SpatialMamba, official_layout

SMALL = {"depths": (1, 1), "dims": (8, 16), "num_classes": 5}


def small_official() -> dict[str, torch.Tensor]:
    """Random weights that fit SMALL, under official names."""
    torch.manual_seed(0)
    model = SpatialMamba(**SMALL)
    return official_weights(model, official_layout(model))


@pytest.mark.parametrize("options", [
    {"dims": 8},
    {"img_size": 48, "patch_size": 16, "patch_norm": False},  # the official code reads none
    {"use_checkpoint": True},
    {"dt_init": "zero", "d_state": 1, "norm_layer": "ln"},
])  # fmt: skip
def test_options_that_leave_the_function_alone(options):
    weights, image = small_official(), torch.randn(2, 3, 40, 33)
    expected = visionssm.from_official("spatialmamba", SMALL, weights)(image)
    model = visionssm.from_official("spatialmamba", {**SMALL, **options}, weights)
    assert torch.equal(model(image), expected)


@pytest.mark.parametrize(("options", "message"), [
    ({"d_state": 4}, "d_state: expected 1, no published weight uses another value; got 4"),
    ({"drop_rate": 0.1}, "drop_rate: expected 0.0"),
    ({"attn_drop_rate": 0.1}, "attn_drop_rate: expected 0.0"),
    ({"norm_layer": "bn"}, "norm_layer: expected 'ln'"),
    ({"pretrained": "some.pth"}, "pretrained: expected None"),
    ({"dt_init": "constant"}, "dt_init: expected one of"),
    ({"dims": (8, 12)}, "dims: expected each stage twice as wide as the one before, got"),
    ({"dims": (8,)}, "dims: expected 2 stages"),
    ({"out_indices": (0, 2)}, "out_indices: expected stages"),
    ({"flash": True, "expand": 3}, "kwargs: Spatial-Mamba has no option expand, flash"),
])  # fmt: skip
def test_unsupported_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        visionssm.from_official("spatialmamba", {**SMALL, **options}, {})


def test_initial_values_are_the_official_ones():
    """Linear layers of blocks and head as Swin's; those that replace convolutions as these."""
    torch.manual_seed(0)
    model = SpatialMamba(depths=(1, 1), dims=(64, 128))
    block, between = model.stages[1].blocks[0], model.stages[1].downsample
    for weight in (block.mlp.fc1.weight, block.op.in_proj.weight, model.head.fc.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp.fc1.bias.eq(0).all()
    for layer, fan_in in ((between.expand, 64), (between.project, 512)):
        for parameter in (layer.weight, layer.bias):
            assert 0.9 * fan_in**-0.5 < parameter.abs().max() <= fan_in**-0.5


def test_each_model_has_its_download_to_itself(monkeypatch, tmp_path):
    """Google Drive gives all files one name, by which they would be found in a common cache."""
    asked = []

    def load(url, model_dir, **kwargs):
        asked.append((url, model_dir))
        raise ConnectionError

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_url", load)
    for name in ("spatial_mamba_tiny", "spatial_mamba_small"):
        with pytest.raises(ConnectionError):
            timm.create_model(name, pretrained=True, depths=(1, 1), dims=(8, 16))
    assert len({url for url, _ in asked}) == len({folder for _, folder in asked}) == 2
    with pytest.raises(ConnectionError):
        timm.create_model(
            "spatial_mamba_tiny", True, cache_dir=tmp_path, depths=(1, 1), dims=(8, 16)
        )
    assert asked[-1][1] == tmp_path
