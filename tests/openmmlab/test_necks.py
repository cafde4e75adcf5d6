"""Necks: sizes, order and values of their maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.openmmlab.cases import build_in_scope, small_backbone

each_scope = pytest.mark.parametrize("scope", ["mmdet", "mmseg"])


@each_scope
def test_simple_feature_pyramid_makes_every_scale_of_the_last_map(scope):
    neck = build_in_scope(
        scope, {"type": "SimpleFeaturePyramid", "in_channels": 16, "out_channels": 8}
    )
    ignored = torch.full((1, 16, 1, 1), torch.nan)
    maps = neck((ignored, torch.randn(2, 16, 6, 10)))
    sizes = [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]
    assert [tuple(m.shape) for m in maps] == [(2, 8, *size) for size in sizes]
    torch.testing.assert_close(maps[4], maps[3][:, :, ::2, ::2])
    for m in maps:  # normalised over the channels of each pixel
        torch.testing.assert_close(m.mean(1), torch.zeros_like(m[:, 0]), rtol=0, atol=1e-5)
    sum(m.square().sum() for m in maps).backward()
    assert all(p.grad is not None for p in neck.parameters())


def test_simple_feature_pyramid_takes_a_plain_backbone_of_any_size():
    backbone = small_backbone("vim").eval()
    cfg = {"type": "SimpleFeaturePyramid", "in_channels": backbone.out_channels[-1]}
    maps = build_in_scope("mmdet", cfg)(backbone(torch.randn(1, 3, 96, 160)))
    assert [tuple(m.shape[2:]) for m in maps] == [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]


def test_simple_feature_pyramid_names_what_is_wrong():
    cfg = {"type": "SimpleFeaturePyramid", "in_channels": 16}
    with pytest.raises(ValueError, match=r"scales: expected 4, 2, 1 or 0\.5, got 3"):
        build_in_scope("mmdet", {**cfg, "scales": [3]})
    with pytest.raises(ValueError, match="num_outs: expected at least 4, got 3"):
        build_in_scope("mmdet", {**cfg, "num_outs": 3})


@each_scope
def test_finer_levels_double_the_finest_map_and_keep_the_others(scope):
    neck = build_in_scope(scope, {"type": "FinerLevels", "channels": 8, "num_levels": 2})
    inputs = (torch.randn(2, 8, 5, 7), torch.randn(2, 8, 3, 4))
    maps = neck(inputs)
    assert [tuple(m.shape[2:]) for m in maps] == [(20, 28), (10, 14), (5, 7), (3, 4)]
    assert maps[2] is inputs[0]
    assert maps[3] is inputs[1]
    first, second = neck.convs
    expected = F.conv_transpose2d(inputs[0], first.weight, first.bias, stride=2)
    torch.testing.assert_close(maps[1], expected)
    expected = F.conv_transpose2d(expected, second.weight, second.bias, stride=2)
    torch.testing.assert_close(maps[0], expected)


def test_efficientvim_serves_a_head_that_begins_at_stride_four():
    backbone = small_backbone("efficientvim").eval()
    assert backbone.strides == [16, 32, 64]
    fpn = {"type": "FPN", "in_channels": backbone.out_channels, "out_channels": 8, "num_outs": 3}
    neck = build_in_scope("mmdet", [fpn, {"type": "FinerLevels", "channels": 8, "num_levels": 2}])
    maps = neck(backbone(torch.randn(1, 3, 128, 192)))
    strides = [4, 8, 16, 32, 64]
    assert [tuple(m.shape[2:]) for m in maps] == [(128 // s, 192 // s) for s in strides]
