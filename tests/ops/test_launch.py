"""Sizes of launches are those that Triton's own functions give."""

from __future__ import annotations

import triton

from visionssm.ops.launch import cdiv, next_power_of_2


def test_ratios_are_rounded_up():
    for x in range(100):
        for y in range(1, 40):
            assert cdiv(x, y) == triton.cdiv(x, y)


def test_powers_of_two():
    assert next_power_of_2(0) == 1  # of nothing there are no blocks, but a block has a size
    for n in range(1, 2000):
        assert next_power_of_2(n) == triton.next_power_of_2(n)
