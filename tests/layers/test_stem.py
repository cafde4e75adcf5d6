"""Sizes of stems and downsampling, and what they do at odd borders."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tests.models.golden import DEVICES
from visionssm.layers import (
    ConvDownsample,
    ConvStem,
    InvertedDownsample,
    PatchStem,
    ResidualConvStem,
)
from visionssm.layers.downsample import MapConv2d
from visionssm.layers.stem import ImageConv2d
from visionssm.models.vmamba import VMamba


@pytest.mark.parametrize("size", [(32, 32), (33, 35), (34, 31)])
def test_stems_turn_images_into_channels_last_maps(size):
    image = torch.randn(2, 3, *size)
    h, w = size
    assert PatchStem(3, 8)(image).shape == (2, h // 4, w // 4, 8)
    halves = [math.ceil(math.ceil(s / 2) / 2) for s in size]
    for stem in (ConvStem(3, 8), ResidualConvStem(3, 8)):
        assert stem(image).shape == (2, *halves, 8)


def test_the_residual_stem_gives_channels_last_memory_whatever_it_gets():
    for image in (torch.randn(2, 3, 32, 20), torch.randn(2, 32, 20, 3).permute(0, 3, 1, 2)):
        assert ResidualConvStem(3, 8)(image).is_contiguous()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(4, 4, 0), (4, 3, 0), (3, 2, 1)])
def test_convolutions_of_images_are_those_of_torch(kernel, stride, padding, device):
    conv = ImageConv2d(3, 5, kernel, stride, padding).double().to(device)
    image = torch.randn(2, 3, 13, 10, dtype=torch.float64, device=device, requires_grad=True)
    expected = F.conv2d(image, conv.weight, conv.bias, stride, padding)
    got = conv(image)
    torch.testing.assert_close(got, expected)
    assert got.permute(0, 2, 3, 1).is_contiguous()
    inputs, grad = (image, conv.weight, conv.bias), torch.randn_like(expected)
    for name, mine, theirs in zip(
        ("image", "weight", "bias"),
        torch.autograd.grad(got, inputs, grad),
        torch.autograd.grad(expected, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, msg=name)


@pytest.mark.parametrize(("patch_size", "stride"), [(2, 1), (4, 4), (6, 9), (8, 16)])
def test_stems_tell_their_stride(patch_size, stride):
    image = torch.randn(1, 3, 144, 144)
    for stem in (ConvStem(3, 8, patch_size), PatchStem(3, 8, stride)):
        assert stem.stride == stride
        assert round(144 / stem(image).shape[1]) == stride
    model = VMamba(patch_size=patch_size, depths=(1, 1), dims=(8, 16), stem="conv")
    assert [info["reduction"] for info in model.feature_info] == [stride, 2 * stride]


def test_hooks_on_convolutions_are_called_whatever_the_batch():
    for batch in (1, 8):
        calls = []
        downsample, stem = ConvDownsample(4, 30), PatchStem(3, 8)
        for conv in (downsample.conv, stem.conv1):
            conv.register_forward_hook(lambda *args, calls=calls: calls.append(args))
        downsample(torch.randn(batch, 7, 6, 4)), stem(torch.randn(batch, 3, 8, 8))
        assert len(calls) == 2


def test_stems_without_normalisation_have_convolutions_alone():
    names = {name for name, _ in ConvStem(3, 8, norm_layer=None).named_parameters()}
    assert names == {"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"}


def test_a_convolutional_stem_needs_an_even_patch():
    with pytest.raises(ValueError, match="patch_size: expected an even number"):
        ConvStem(3, 8, patch_size=3)


@pytest.mark.parametrize(("kernel", "size"), [(2, (3, 3)), (3, (4, 3))])
def test_downsampling_rounds_down_without_padding_and_up_with_it(kernel, size):
    assert ConvDownsample(4, 6, kernel_size=kernel)(torch.randn(2, 7, 6, 4)).shape == (2, *size, 6)


@pytest.mark.parametrize("channels", [3, 30])  # more weights than pixels take another way
@pytest.mark.parametrize(("kernel", "padding"), [(2, 0), (3, 1)])
def test_maps_of_any_size_are_convolved(channels, kernel, padding):
    conv = MapConv2d(4, channels, kernel, stride=2, padding=padding).double()
    x = torch.randn(2, 7, 6, 4, dtype=torch.float64)
    y = F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, 2, padding)
    torch.testing.assert_close(conv(x), y.permute(0, 2, 3, 1))


@pytest.mark.parametrize("size", [(7, 6), (1, 5), (2, 2)])
def test_inverted_downsampling_rounds_up(size):
    h, w = size
    out = InvertedDownsample(4, 6)(torch.randn(2, h, w, 4))
    assert out.shape == (2, math.ceil(h / 2), math.ceil(w / 2), 6)
    assert out.is_contiguous()
