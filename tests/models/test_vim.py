"""Vim's own: options of its official code, position embedding, class token, residual stream."""

from __future__ import annotations

import argparse
import re

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import nn

import visionssm
from tests.models.golden import official_weights
from visionssm.cli.main import main
from visionssm.models.vim import (
    Vim,
    checkpoint_filter_fn,
    official_layout,
    resample_pos_embed,
)

SMALL = {"depth": 2, "embed_dim": 32, "num_classes": 5, "d_state": 4}
OFFICIAL_SMALL = {**SMALL, "img_size": 48}


def small_official(**kwargs) -> tuple[dict, dict[str, torch.Tensor]]:
    """Arguments of the official class and random weights that fit them, under official names."""
    torch.manual_seed(0)
    model = Vim(img_size=48, **{**SMALL, **kwargs})
    return OFFICIAL_SMALL, official_weights(model, official_layout(model))


@pytest.mark.parametrize("options", [{"img_size": (96, 160)}, {"stride": 8}])
def test_published_weights_adapt_to_other_sizes_and_strides(tmp_path, options):
    saved = timm.create_model("vim_tiny", **SMALL)
    torch.save(official_weights(saved, official_layout(saved)), tmp_path / "official.pth")
    overlay = {"file": str(tmp_path / "official.pth"), "num_classes": 5}
    loaded = timm.create_model("vim_tiny", True, pretrained_cfg_overlay=overlay, **SMALL, **options)
    grid = loaded.patch_embed.grid_size
    assert grid == ((6, 10) if "img_size" in options else (27, 27))
    expected = resample_pos_embed(saved.pos_embed, (14, 14), grid)
    torch.testing.assert_close(loaded.pos_embed, expected)


def test_published_weights_without_the_class_token_keep_each_patch_its_position(tmp_path):
    options = {"depth": 1, "embed_dim": 16}
    saved = timm.create_model("vim_tiny", **options)
    torch.save({"model": official_weights(saved, official_layout(saved))}, tmp_path / "vim.pth")
    overlay = {"file": str(tmp_path / "vim.pth")}
    model = timm.create_model(
        "vim_tiny",
        pretrained=True,
        pretrained_cfg_overlay=overlay,
        class_token=False,
        global_pool="avg",
        **options,
    )
    patches = torch.cat([saved.pos_embed[:, :98], saved.pos_embed[:, 99:]], dim=1)
    assert torch.equal(model.pos_embed, patches)
    assert torch.equal(model.head.weight, saved.head.weight)


def test_convert_tells_the_plus_models_from_the_others(tmp_path, capsys):
    saved = timm.create_model("vim_tiny_plus").eval()
    weights = official_weights(saved, official_layout(saved))
    torch.save({"model": weights, "args": argparse.Namespace(lr=1e-3)}, tmp_path / "official.pth")
    target = tmp_path / "ours.safetensors"
    assert main(["convert", str(tmp_path / "official.pth"), str(target)]) == 0
    assert "official.pth: vim_tiny_plus, 247 tensors" in capsys.readouterr().out
    loaded = timm.create_model("vim_tiny_plus", checkpoint_path=str(target))
    assert all(torch.equal(v, saved.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_every_part_that_does_not_fit_is_named():
    kwargs, weights = small_official()
    del weights["layers.0.mixer.conv1d_b.weight"]
    weights["layers.1.mixer.D_b"] = torch.zeros(7)
    weights["norm_f.bias"] = torch.zeros(32)
    with pytest.raises(ValueError, match="3 keys do not fit") as error:
        visionssm.from_official("vim", kwargs, weights)
    for line in [
        "missing layers.0.mixer.conv1d_b.weight",
        "misshaped layers.1.mixer.D_b: expected (64,), got (7,)",
        "unexpected norm_f.bias",
    ]:
        assert line in str(error.value)


def test_a_joined_parameter_and_its_parts_are_refused_together():
    kwargs, weights = small_official()
    weights["blocks.0.mixer.D"] = torch.zeros(128)
    with pytest.raises(ValueError, match=r"'blocks\.0\.mixer\.D' and layers\.0\.mixer\.D, "):
        visionssm.from_official("vim", kwargs, weights)


@pytest.mark.parametrize(("options", "message"), [
    ({"if_rope": True}, "if_rope: expected False"),
    ({"if_rope_residual": True}, "if_rope_residual: expected False"),
    ({"if_bidirectional": True}, "if_bidirectional: expected False"),
    ({"if_abs_pos_embed": False}, "if_abs_pos_embed: expected True"),
    ({"use_double_cls_token": True}, "use_double_cls_token: expected False"),
    ({"use_middle_cls_token": False}, "use_middle_cls_token: expected one of"),
    ({"bimamba_type": "v1"}, "bimamba_type: expected one of"),
    ({"if_cls_token": False}, "final_pool_type: expected one of .*, got 'none'"),
    ({"if_cls_token": False, "final_pool_type": "max"}, "final_pool_type: expected one of"),
    ({"ssm_cfg": {"expand": 1}}, "ssm_cfg: expected None"),
    ({"flip_img_sequences_ratio": 0.5}, "flip_img_sequences_ratio: expected -1.0"),
    ({"img_size": 8}, "img_size: expected at least 16"),
    ({"flash": True, "dims": 3}, "kwargs: Vim has no option dims, flash"),
])  # fmt: skip
def test_unsupported_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        visionssm.from_official("vim", {**OFFICIAL_SMALL, **options}, {})


@pytest.mark.parametrize("options", [
    {"img_size": (40, 72), "stride": 8},
    {"channels": 1, "drop_rate": 0.1, "drop_path_rate": 0.3, "if_devide_out": True},
    {"final_pool_type": "mean", "if_cls_token": False, "fused_add_norm": False},
    {"norm_epsilon": 1e-3, "rms_norm": False, "residual_in_fp32": False},
])  # fmt: skip
def test_other_official_options_build_and_run(options):
    ours = {"channels": "in_chans", "if_cls_token": "class_token"}
    build = {ours[k]: v for k, v in options.items() if k in ours}
    build |= {k: v for k, v in options.items() if k in ("img_size", "stride")}
    if "class_token" in build:
        build["global_pool"] = "avg"
    if "rms_norm" in options:
        build["norm_layer"] = nn.LayerNorm
    model = Vim(**{"img_size": 48, **SMALL, **build})
    weights = official_weights(model, official_layout(model))
    loaded = visionssm.from_official("vim", {**OFFICIAL_SMALL, **options}, weights)
    image = torch.randn(2, model.in_chans, *model.patch_embed.img_size)
    out = loaded(image)
    assert out.shape == (2, 5)
    assert torch.equal(out, loaded(image))
    if "norm_epsilon" not in options:
        torch.testing.assert_close(out, model.eval()(image))


def test_the_class_token_is_in_the_middle_and_read_there():
    model = Vim(img_size=(48, 80), **SMALL).eval()
    tokens = model.embed(torch.zeros(1, 3, 48, 80))
    assert tokens.shape == (1, 16, 32)
    torch.testing.assert_close(tokens[:, 7], (model.cls_token + model.pos_embed[:, 7:8])[:, 0])
    features = torch.randn(1, 16, 32)
    assert torch.equal(model.forward_head(features, pre_logits=True), features[:, 7])
    model.reset_classifier(0, "avg")
    patches = torch.cat([features[:, :7], features[:, 8:]], dim=1)
    torch.testing.assert_close(model.forward_head(features), patches.mean(1))


def test_position_embedding_is_resampled_around_the_class_token():
    pos_embed = torch.randn(1, 13, 8)
    patches = torch.cat([pos_embed[:, :6], pos_embed[:, 7:]], dim=1)
    grid = patches.view(1, 3, 4, 8).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(5, 7), mode="bicubic", align_corners=False)
    expected = grid.flatten(2).transpose(1, 2)
    got = resample_pos_embed(pos_embed, (3, 4), (5, 7))
    torch.testing.assert_close(got[:, 17], pos_embed[:, 6])
    torch.testing.assert_close(torch.cat([got[:, :17], got[:, 18:]], dim=1), expected)
    torch.testing.assert_close(resample_pos_embed(patches, (3, 4), (5, 7)), expected)
    assert torch.equal(resample_pos_embed(pos_embed, (3, 4), (3, 4)), pos_embed)


def test_setting_the_input_size_equals_resampling_at_every_call():
    dynamic = Vim(img_size=48, dynamic_img_size=True, **SMALL).eval()
    fixed = Vim(img_size=48, **SMALL).eval()
    fixed.load_state_dict(dynamic.state_dict())
    image = torch.randn(2, 3, 50, 81)
    with pytest.raises(ValueError, match=re.escape("expected images of (48, 48), got (50, 81)")):
        fixed(image)
    fixed.set_input_size((50, 81))
    torch.testing.assert_close(fixed(image), dynamic(image))
    with pytest.raises(ValueError, match="x: expected at least 16 pixels a side"):
        dynamic(torch.randn(1, 3, 15, 48))
    with pytest.raises(ValueError, match="img_size: expected at least 16"):
        fixed.set_input_size(15)


def test_pools_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="global_pool: expected one of"):
        Vim(img_size=48, global_pool="max", **SMALL)
    with pytest.raises(ValueError, match="global_pool: expected 'avg' or '' without class token"):
        Vim(img_size=48, class_token=False, **SMALL)


def test_drop_path_rates_are_those_of_the_official_bookkeeping():
    """There, layer i drops its input, the output of layer i - 1, at rate ([0] + rates)[i], and the
    final normalisation drops that of the last layer at the full rate."""
    depth, rate = 5, 0.3
    rates = [0.0, *torch.linspace(0, rate, depth).tolist()]
    official = [*rates[1:depth], rate]  # of each layer's output
    model = Vim(img_size=48, drop_path_rate=rate, **{**SMALL, "depth": depth})
    ours = [b.drop_path.drop_prob if isinstance(b.drop_path, DropPath) else 0.0
            for b in model.blocks]  # fmt: skip
    assert ours == pytest.approx(official)


def test_the_residual_stream_is_float32_in_a_low_precision_model():
    model = Vim(img_size=48, dtype=torch.bfloat16, **SMALL).eval()
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    assert model(torch.randn(1, 3, 48, 48, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert seen == [torch.float32] * 2


def test_initial_values_are_the_official_ones():
    torch.manual_seed(0)
    model = Vim(img_size=112, depth=4, embed_dim=64)
    bound = 1 / (128 * 4) ** 0.5  # kaiming-uniform of d = 128 inputs, over the root of the depth
    largest = model.blocks[0].mixer.out_proj.weight.abs().max()
    assert 0.9 * bound < largest <= bound
    assert model.head.bias.eq(0).all()
    assert model.patch_embed.proj.bias.eq(0).all()
    for parameter in (model.head.weight, model.pos_embed):
        assert parameter.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.patch_embed.proj.weight.std().item() == pytest.approx((3 * 256) ** -0.5, rel=0.1)


def test_weights_are_initialised_alike_again_and_again():
    torch.manual_seed(0)
    model = Vim(img_size=32, embed_dim=64, depth=4)
    spread = model.blocks[0].mixer.out_proj.weight.std()
    torch.manual_seed(0)
    model.init_weights()
    torch.testing.assert_close(
        model.blocks[0].mixer.out_proj.weight.std(), spread, rtol=0.1, atol=0
    )


def test_a_model_that_timm_did_not_build_loads_weights():
    model = Vim(img_size=32, embed_dim=16, depth=1)
    other = Vim(img_size=32, embed_dim=16, depth=1)
    other.load_state_dict(checkpoint_filter_fn(model.state_dict(), other))
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )
