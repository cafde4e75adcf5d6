"""EfficientViM's own: distillation heads, the dense backbone, weights of timm, official options."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import visionssm
from tests.models.golden import load_golden
from visionssm.cli.main import main
from visionssm.models.efficientvim import EfficientViMDistilled, checkpoint_filter_fn

SMALL = {"embed_dim": (16, 24, 32), "depths": (1, 1, 1), "state_dim": (5, 4, 3), "num_classes": 5}
OFFICIAL_SMALL = {
    "embed_dim": [16, 24, 32], "depths": [1, 1, 1], "state_dim": [5, 4, 3], "num_classes": 5,
}  # fmt: skip
BACKBONE = {k: v for k, v in OFFICIAL_SMALL.items() if k != "num_classes"} | {"frozen_stages": -1}


def small(name: str = "ssm_efficientvim_m1", **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **{**SMALL, **kwargs}).eval()


def official_shapes(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Norms as official files have them: over tokens (1, c, 1), over the map (1, c, 1, 1)."""
    found = {}
    for key, value in weights.items():
        owner, _, kind = key.rpartition(".")
        if owner == "norm.3":
            value = value.view(1, -1, 1, 1)
        elif kind in ("weight", "bias") and (
            owner.startswith("norm.") or owner.endswith("s.0.norm")
        ):
            value = value.view(1, -1, 1)
        found[key] = value
    return found


def test_weights_are_those_of_timm_in_both_directions():
    ours, theirs = small(), timm.create_model("efficientvim_m1", **SMALL).eval()
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(2, 3, 70, 130)
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-5, atol=1e-6)
    small().load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("size", ["m1", "m2", "m3", "m4"])
@pytest.mark.parametrize("form", ["", "_dist"])
def test_sizes_and_preprocessing_are_those_of_timm(size, form):
    with torch.device("meta"):
        ours = timm.create_model(f"ssm_efficientvim_{size}{form}")
        theirs = timm.create_model(f"efficientvim_{size}{form}")
    shapes = {k: v.shape for k, v in ours.state_dict().items()}
    assert shapes == {k: v.shape for k, v in theirs.state_dict().items()}
    for entry in ("input_size", "crop_pct", "mean", "std", "classifier", "first_conv"):
        assert ours.default_cfg[entry] == theirs.default_cfg[entry]
    tags = {"": ("e450_in1k", "e300_in1k"), "_dist": ("in1k",)}[form]
    for tag in tags:
        cfg = timm.get_pretrained_cfg(f"ssm_efficientvim_{size}{form}.{tag}")
        expected = timm.get_pretrained_cfg(f"efficientvim_{size}{form}.{tag}")
        assert cfg.hf_hub_id == expected.hf_hub_id


def test_distilled_logits_are_a_pair_in_training_on_request_and_else_their_mean():
    model = small("ssm_efficientvim_m1_dist")
    assert isinstance(model, EfficientViMDistilled)
    nn.init.normal_(model.heads_dist[0].weight)
    image = torch.randn(2, 3, 64, 64)
    model.set_distilled_training()
    assert model(image).shape == (2, 5)
    first, second = model.train()(image)
    assert not torch.allclose(first, second)
    model.set_distilled_training(False)
    torch.testing.assert_close(model(image), (first + second) / 2)


@pytest.mark.parametrize("size", [(64, 64), (65, 100), (200, 36)])
def test_pyramid_maps_come_as_they_are_at_strides_16_32_64(size):
    whole = small()
    pyramid = timm.create_model("ssm_efficientvim_m1", features_only=True, **SMALL).eval()
    kept = pyramid.model.state_dict().keys()
    pyramid.model.load_state_dict({k: v for k, v in whole.state_dict().items() if k in kept})
    assert pyramid.feature_info.reduction() == [16, 32, 64]
    assert not any(key.startswith(("heads", "norm")) for key in kept)
    image = torch.randn(1, 3, *size)
    expected = []
    x = whole.patch_embed(image)
    for stage in whole.stages:
        out, x, _ = stage(x)
        expected.append(out)
    for m, truth, reduction in zip(pyramid(image), expected, (16, 32, 64), strict=True):
        torch.testing.assert_close(m, truth)
        assert m.shape[2:] == tuple(-(-side // reduction) for side in size)


def test_the_moving_average_of_a_checkpoint_is_taken(tmp_path):
    last, average = small().state_dict(), small().state_dict()
    for key, value in last.items():
        if value.is_floating_point():
            last[key] = value + 1
    file = tmp_path / "official.pth"
    torch.save({"model": last, "model_ema": average, "epoch": 3}, file)
    overlay = {"file": str(file), "num_classes": 5}
    loaded = small(pretrained=True, pretrained_cfg_overlay=overlay)
    assert all(torch.equal(v, average[k]) for k, v in loaded.state_dict().items())
    chosen = checkpoint_filter_fn({"model": last, "model_ema": average}, loaded)
    assert all(torch.equal(v, average[k]) for k, v in chosen.items())
    checkpoint = {"model": official_shapes(last), "model_ema": official_shapes(average)}
    built = visionssm.from_official("efficientvim", OFFICIAL_SMALL, checkpoint)
    assert all(torch.equal(v, average[k]) for k, v in built.state_dict().items())


def test_distilled_weights_do_not_lose_their_heads_in_a_model_without(tmp_path):
    file = tmp_path / "official.pth"
    torch.save({"model": small("ssm_efficientvim_m1_dist").state_dict()}, file)
    overlay = {"file": str(file), "num_classes": 5}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*heads_dist"):
        small(pretrained=True, pretrained_cfg_overlay=overlay)


@pytest.mark.parametrize("form", ["", "_dist"])
def test_convert_tells_the_distilled_models_from_the_others(form, tmp_path, capsys):
    saved = timm.create_model(f"ssm_efficientvim_m1{form}").eval()
    torch.save({"model": official_shapes(saved.state_dict())}, tmp_path / "official.pth")
    target = tmp_path / "ours.safetensors"
    assert main(["convert", str(tmp_path / "official.pth"), str(target)]) == 0
    assert f"official.pth: ssm_efficientvim_m1{form}, " in capsys.readouterr().out
    loaded = timm.create_model(f"ssm_efficientvim_m1{form}", checkpoint_path=str(target))
    assert all(torch.equal(v, saved.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_from_official_names_what_does_not_fit_in_official_shapes():
    case = load_golden("efficientvim", "m1_odd")
    weights = dict(case.parameters)
    del weights["stages.0.blocks.0.mixer.A"]
    weights["norm.3.weight"] = torch.zeros(1, 7, 1, 1)
    weights["heads_dist.0.weight"] = torch.zeros(10, 32)
    with pytest.raises(ValueError, match="3 keys do not fit") as error:
        visionssm.from_official("efficientvim", case.kwargs, weights)
    for line in [
        "missing stages.0.blocks.0.mixer.A",
        "misshaped norm.3.weight: expected (1, 48, 1, 1), got (1, 7, 1, 1)",
        "unexpected heads_dist.0.weight",
    ]:
        assert line in str(error.value)


def test_a_model_from_official_weights_loads_its_own_again():
    model = visionssm.from_official(
        "efficientvim", OFFICIAL_SMALL, official_shapes(small().state_dict())
    )
    parameters = list(model.parameters())
    model.load_state_dict(model.state_dict())
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))


@pytest.mark.parametrize(("frozen_stages", "frozen"), [(-1, False), (0, True)])
def test_the_official_backbone_may_freeze_the_stem(frozen_stages, frozen):
    weights = official_shapes(
        {
            k: v
            for k, v in small().state_dict().items()
            if not k.startswith(("norm", "head", "weig"))
        }
    )
    kwargs = {**BACKBONE, "frozen_stages": frozen_stages}
    backbone = visionssm.from_official("efficientvim", kwargs, weights)
    assert sum(not p.requires_grad for p in backbone.parameters()) == (12 if frozen else 0)
    assert [m.shape[1:] for m in backbone(torch.randn(1, 3, 80, 48))] == [
        (16, 5, 3), (24, 3, 2), (32, 2, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), [
    ({"depths": [1, 1]}, r"depths: expected 3 stages, got \[1, 1\]"),
    ({"state_dim": [4]}, "state_dim: expected 3 stages"),
    ({"drop_path": 0.1, "dims": 3}, "kwargs: EfficientViM has no option dims, drop_path"),
])  # fmt: skip
def test_unsupported_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        visionssm.from_official("efficientvim", {**OFFICIAL_SMALL, **options}, {})
