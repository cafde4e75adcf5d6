"""`from_official`: options of the official code, and what it says of arguments that do not fit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import visionssm
from visionssm.models.dense import DenseBackbone
from visionssm.models.official import _builders, read_checkpoint
from visionssm.models.vmamba import VMamba

BASE = {
    "depths": [1, 1],
    "dims": [8, 12],
    "num_classes": 5,
    "forward_type": "v05",
    "ssm_d_state": 2,
    "downsample_version": "v3",
    "patchembed_version": "v2",
    "imgsize": 32,
}


def official_weights(seed: int = 0, **kwargs) -> tuple[dict, dict[str, torch.Tensor]]:
    """Arguments and a random state dict that fits them, under official names."""
    kwargs = {**BASE, **kwargs}
    model, layout = _builders["vmamba"](kwargs)
    torch.manual_seed(seed)
    weights = {
        layout.names.get(k, k): torch.randn_like(v) * 0.3 for k, v in model.state_dict().items()
    }
    return kwargs, weights


def run(kwargs: dict, weights: dict, size=(44, 36)) -> torch.Tensor | list[torch.Tensor]:
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(7))
    return visionssm.from_official("vmamba", kwargs, weights)(image)


@pytest.mark.parametrize(
    "forward_type", ["v0seq", "v01", "v02", "v03", "v04", "v2", "v3", "v05_no32"]
)
def test_names_of_one_function_give_one_result(forward_type):
    kwargs, weights = official_weights()
    expected = run(kwargs, weights)
    actual = run({**kwargs, "forward_type": forward_type}, weights)
    assert torch.equal(actual, expected)


def test_v0_ignores_the_options_that_its_class_does_not_take():
    kwargs, weights = official_weights(forward_type="v0")
    expected = run(kwargs, weights)
    other = {**kwargs, "ssm_act_layer": "gelu", "ssm_conv_bias": False, "ssm_conv": 5}
    assert torch.equal(run(other, weights), expected)


@pytest.mark.parametrize("downsample", ["v1", "v2", "v3"])
@pytest.mark.parametrize("size", [(44, 36), (33, 50)])
def test_channel_first_and_channel_last_norms_are_one(downsample, size):
    kwargs, weights = official_weights(downsample_version=downsample, norm_layer="LN2D")
    expected = run({**kwargs, "norm_layer": "ln"}, weights, size)
    assert torch.equal(run(kwargs, weights, size), expected)


def test_suffixes_change_the_gate_and_the_output():
    kwargs, weights = official_weights()
    outputs = [run(kwargs, weights)]
    for suffix in ("_nozact", "_oact"):
        outputs.append(run({**kwargs, "forward_type": "v05" + suffix}, weights))
    for i, a in enumerate(outputs):
        assert all(not torch.allclose(a, b) for b in outputs[:i])
    ungated, weights = official_weights(forward_type="v05_noz_oact")
    assert weights["layers.0.blocks.0.op.in_proj.weight"].shape == (16, 8)
    assert run(ungated, weights).isfinite().all()


def test_gated_mlp_multiplies_the_first_half_with_the_activated_second():
    kwargs, weights = official_weights(gmlp=True, mlp_ratio=2.0)
    mlp = visionssm.from_official("vmamba", kwargs, weights).stages[0].blocks[0].mlp
    x = torch.randn(3, 8)
    p = "layers.0.blocks.0.mlp."
    a, z = F.linear(x, weights[p + "fc1.weight"], weights[p + "fc1.bias"]).chunk(2, dim=-1)
    expected = F.linear(a * F.gelu(z), weights[p + "fc2.weight"], weights[p + "fc2.bias"])
    torch.testing.assert_close(mlp(x), expected)


@pytest.mark.parametrize("options", [
    {"patch_norm": False},
    {"patch_norm": False, "patchembed_version": "v1", "patch_size": 3},
    {"ssm_conv": 1, "ssm_act_layer": "relu", "mlp_act_layer": "silu"},
    {"ssm_conv": 0, "downsample_version": "v1"},
    {"ssm_conv": 5, "ssm_conv_bias": False, "ssm_dt_rank": 3},
    {"dims": 8, "depths": [1, 2, 1]},
    {"ssm_init": "v1", "in_chans": 1, "mlp_ratio": 0.0, "use_checkpoint": True},
    {"ssm_drop_rate": 0.1, "mlp_drop_rate": 0.1, "ssm_rank_ratio": 2.0},
])  # fmt: skip
def test_other_options_build_and_run(options):
    kwargs, weights = official_weights(**options)
    model = visionssm.from_official("vmamba", kwargs, weights)
    assert not model.training
    image = torch.randn(1, kwargs.get("in_chans", 3), 37, 41)
    out = model(image)
    assert out.shape == (1, 5)
    assert torch.equal(out, model(image))


def test_dense_backbone_returns_the_stages_asked_for():
    kwargs, weights = official_weights(dims=8, depths=[1, 1, 1], out_indices=(0, 2))
    assert "outnorm0.weight" in weights
    assert "outnorm1.weight" not in weights
    assert not any("classifier" in key for key in weights)
    maps = run(kwargs, weights, (64, 48))
    assert [m.shape for m in maps] == [(2, 8, 16, 12), (2, 32, 4, 3)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dense_backbone_normalises_in_the_dtype_of_its_model(dtype):
    model = VMamba(depths=(1, 1), dims=(8, 16), dtype=dtype)
    backbone = DenseBackbone(model, (0, 1))
    assert {parameter.dtype for parameter in backbone.outnorm1.parameters()} == {dtype}
    with torch.device("meta"):
        model = VMamba(depths=(1, 1), dims=(8, 16))
    assert DenseBackbone(model, (0,)).outnorm0.weight.is_meta


def test_tensors_may_lie_in_a_checkpoint():
    kwargs, weights = official_weights()
    assert torch.equal(run(kwargs, {"model": weights, "epoch": 1}), run(kwargs, weights))


def test_every_key_that_does_not_fit_is_named():
    kwargs, weights = official_weights()
    del weights["layers.0.downsample.3.weight"], weights["patch_embed.5.bias"]
    weights["layers.0.blocks.0.op.extra"] = torch.zeros(1)
    weights["classifier.head.weight"] = torch.zeros(3, 3)
    weights["classifier.norm.bias"] = "text"
    with pytest.raises(ValueError, match="5 keys do not fit") as error:
        visionssm.from_official("vmamba", kwargs, weights)
    for line in [
        "missing layers.0.downsample.3.weight",
        "missing patch_embed.5.bias",
        "unexpected layers.0.blocks.0.op.extra",
        "misshaped classifier.head.weight: expected (5, 12), got (3, 3)",
        "classifier.norm.bias is no tensor but str",
    ]:
        assert line in str(error.value)


def test_keys_that_are_no_names_are_refused():
    kwargs, weights = official_weights()
    for damaged in ({**weights, 3: torch.zeros(1)}, {"model": {**weights, 3: torch.zeros(1)}}):
        with pytest.raises(ValueError, match="expected names of tensors, got the key 3"):
            visionssm.from_official("vmamba", kwargs, damaged)


def test_two_names_for_one_parameter_are_refused():
    kwargs, weights = official_weights()
    weights["head.bias"] = weights["classifier.head.bias"]
    with pytest.raises(ValueError, match=r"'head\.bias' and another key both stand for"):
        visionssm.from_official("vmamba", kwargs, weights)


@pytest.mark.parametrize(("options", "message"), [
    ({"posembed": True}, "posembed: expected False"),
    ({"post_norm": True}, "post_norm: expected False"),
    ({"norm_layer": "bn"}, "norm_layer: expected one of"),
    ({"forward_type": "m0"}, "forward_type: expected"),
    ({"forward_type": "xv1a"}, "forward_type: expected"),
    ({"forward_type": "v051d"}, "forward_type: expected"),
    ({"forward_type": "v052d_noz"}, "forward_type: expected"),
    ({"forward_type": "v05_onnone"}, "forward_type: expected"),
    ({"downsample_version": "none"}, "downsample_version: expected one of"),
    ({"patchembed_version": "v3"}, "patchembed_version: expected one of"),
    ({"ssm_act_layer": "tanh"}, "ssm_act_layer: expected one of"),
    ({"ssm_ratio": 0.0}, "ssm_ratio: expected"),
    ({"ssm_conv": 2}, "ssm_conv: expected an odd"),
    ({"ssm_init": "v9"}, "ssm_init: expected one of"),
    ({"dims": [8]}, "dims: expected 2 stages"),
    ({"out_indices": (0, 4)}, "out_indices: expected stages"),
    ({"flash": True, "depth": 3}, "kwargs: VMamba has no option depth, flash"),
    ({"pretrained": "some.pth"}, "pretrained: expected None"),
])  # fmt: skip
def test_unsupported_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        visionssm.from_official("vmamba", {**BASE, **options}, {})


def test_unknown_families_are_named():
    with pytest.raises(ValueError, match=r"family: expected one of .*'vmamba'.*, got 'resnet'"):
        visionssm.from_official("resnet", {}, {})


@pytest.mark.parametrize("name", ["half.safetensors", "half.pth"])
def test_damaged_files_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ValueError, match=f"source: .*{name}.* is damaged"):
        read_checkpoint(tmp_path / name, "source")
