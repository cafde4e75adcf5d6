"""Sizes of stems and downsampling, and what they do at odd borders."""

from __future__ import annotations

import math

import pytest
import torch

from tests.models.golden import DEVICES
from visionssm.layers import (
    ConvDownsample,
    ConvStem,
    InvertedDownsample,
    PatchStem,
    ResidualConvStem,
)
from visionssm.layers.downsample import convolve_map
from visionssm.layers.stem import convolve_patches


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
def test_patches_are_those_of_a_convolution(device):
    conv = torch.nn.Conv2d(3, 5, 4, stride=4).double().to(device)
    image = torch.randn(2, 3, 13, 10, dtype=torch.float64, device=device)
    torch.testing.assert_close(convolve_patches(conv, image), conv(image).permute(0, 2, 3, 1))


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
    conv = torch.nn.Conv2d(4, channels, kernel, stride=2, padding=padding).double()
    x = torch.randn(2, 7, 6, 4, dtype=torch.float64)
    expected = conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(convolve_map(conv, x), expected)


@pytest.mark.parametrize("size", [(7, 6), (1, 5), (2, 2)])
def test_inverted_downsampling_rounds_up(size):
    h, w = size
    out = InvertedDownsample(4, 6)(torch.randn(2, h, w, 4))
    assert out.shape == (2, math.ceil(h / 2), math.ceil(w / 2), 6)
    assert out.is_contiguous()
