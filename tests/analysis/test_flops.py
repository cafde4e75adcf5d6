"""FLOPs: two a multiply-add, the scan's formula included, the same on the meta device."""

import pytest
import torch
from torch import nn

from visionssm.analysis.flops import count_flops
from visionssm.ops import selective_scan


class ConvThenScan(nn.Module):
    """A 1x1 convolution (3 -> 8 channels), then a scan over its pixels along two routes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.A = nn.Parameter(-torch.ones(2, 8, 4))
        self.D = nn.Parameter(torch.ones(2, 8))

    def forward(self, image):
        tokens = self.conv(image).flatten(2).transpose(1, 2)[:, None]  # (b, 1, l, d)
        delta = tokens.expand(-1, 2, -1, -1)
        return selective_scan(tokens, delta, self.A, delta[..., :4], delta[..., 4:], self.D)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7)])
def test_convolution_and_scan_are_counted(device, height, width):
    pixels = height * width
    convolution = 2 * pixels * 3 * 8
    scan = 2 * pixels * 8 * (9 * 4 + 2)  # routes, tokens, channels, (9 a state and the skip)
    model = ConvThenScan().to(device)
    assert count_flops(model, (3, height, width)) == convolution + scan
