"""Layer-wise learning rates and what is not decayed, in detectors and segmentors."""

from __future__ import annotations

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from tests.openmmlab.cases import SMALL, backbone_cfg, build_in_scope, small_backbone

RATE, WEIGHT_DECAY, LR = 0.5, 0.1, 1e-3
WRAPPER = {
    "type": "OptimWrapper",
    "constructor": "BackboneLayerDecay",
    "paramwise_cfg": {"decay_rate": RATE},
    "optimizer": {"type": "AdamW", "lr": LR, "weight_decay": WEIGHT_DECAY},
}


def segmentor(family: str, **kwargs) -> torch.nn.Module:
    channels = small_backbone(family).out_channels
    head = {
        "type": "FCNHead", "in_channels": channels[-1], "channels": 4, "in_index": -1,
        "num_convs": 1, "num_classes": 3, "norm_cfg": {"type": "BN"},
    }  # fmt: skip
    cfg = {"type": "EncoderDecoder", "backbone": backbone_cfg(family, **kwargs)}
    return build_in_scope("mmseg", {**cfg, "decode_head": head, "test_cfg": {"mode": "whole"}})


def detector(family: str, **kwargs) -> torch.nn.Module:
    channels = small_backbone(family).out_channels
    neck = {"type": "FPN", "in_channels": channels, "out_channels": 4, "num_outs": len(channels)}
    head = {
        "type": "RPNHead", "in_channels": 4, "feat_channels": 4,
        "anchor_generator": {
            "type": "AnchorGenerator", "scales": [8], "ratios": [1.0],
            "strides": [8] * len(channels),
        },
    }  # fmt: skip
    cfg = {"type": "SingleStageDetector", "backbone": backbone_cfg(family, **kwargs), "neck": neck}
    return build_in_scope("mmdet", {**cfg, "bbox_head": head})


def settings(model: torch.nn.Module) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter."""
    groups = build_optim_wrapper(model, WRAPPER).optimizer.param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize(("scope", "build"), [("mmdet", detector), ("mmseg", segmentor)])
def test_rates_fall_with_depth_and_vectors_are_not_decayed(scope, build, family):
    model = build(family)
    with DefaultScope.overwrite_default_scope(scope):
        found = settings(model)
    assert found.keys() == {name for name, _ in model.named_parameters()}
    depths = model.backbone.layer_ids()
    last = max(depths.values())
    exempt = {f"backbone.{name}" for name in model.backbone.no_weight_decay()}
    for name, parameter in model.named_parameters():
        depth = depths.get(name.removeprefix("backbone."), last)
        rate, decay = found[name]
        assert rate == pytest.approx(LR * RATE ** (last - depth)), name
        vector = parameter.ndim < 2 or name.endswith(".bias") or name in exempt
        assert decay == (0 if vector else WEIGHT_DECAY), name


@pytest.mark.parametrize(("family", "expected"), [
    ("vmamba", {
        "stem": 0, "stages.0.blocks.0": 1, "stages.1.downsample": 2, "stages.1.blocks.0": 2,
        "outnorm": 3,
    }),
    ("vim", {
        "pos_embed": 0, "cls_token": 0, "patch_embed": 0, "blocks.0": 1, "blocks.1": 2,
        "outnorm": 3,
    }),
])  # fmt: skip
def test_depth_is_counted_in_blocks(family, expected):
    depths = small_backbone(family).layer_ids()
    for name, depth in depths.items():
        path = name.removeprefix("model.")
        assert depth == next(d for start, d in expected.items() if path.startswith(start)), name


def test_frozen_parameters_are_left_out():
    model = segmentor("vmamba", frozen_stages=1)
    with DefaultScope.overwrite_default_scope("mmseg"):
        found = settings(model)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen
    assert not frozen & found.keys()


def test_what_it_cannot_do_is_named():
    with pytest.raises(ValueError, match="paramwise_cfg: expected dict"):
        build_optim_wrapper(segmentor("vmamba"), {**WRAPPER, "paramwise_cfg": {"num_layers": 4}})
    with pytest.raises(ValueError, match="optimizer: expected an explicit lr"):
        build_optim_wrapper(segmentor("vmamba"), {**WRAPPER, "optimizer": {"type": "AdamW"}})
    other = torch.nn.Module()
    other.backbone = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="expected an SSMBackbone, got Linear"):
        build_optim_wrapper(other, WRAPPER)
