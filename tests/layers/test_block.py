"""Blocks: their residuals, in order, and stochastic depth."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from tests.layers.convolution import convolved
from visionssm.layers import CPEBlock

mixer = partial(nn.Linear, 6)  # one that mixes channels alone


def test_four_residuals_in_order():
    block = CPEBlock(6, mixer, mlp_ratio=2.0)
    assert block.mlp.fc1.out_features == 12
    x = torch.randn(2, 5, 4, 6)
    expected = x + convolved(block.cpe1, x)
    expected = expected + block.op(block.norm(expected))
    expected = expected + convolved(block.cpe2, expected)
    expected = expected + block.mlp(block.norm2(expected))
    torch.testing.assert_close(block(x), expected)


def test_dropped_paths_leave_the_position_embeddings():
    block = CPEBlock(6, mixer, drop_path=1.0).train()
    x = torch.randn(2, 5, 4, 6)
    expected = x + convolved(block.cpe1, x)
    expected = expected + convolved(block.cpe2, expected)
    torch.testing.assert_close(block(x), expected)
