"""Tiles of the forward kernel with several states: their sizes, and results where they differ."""

from __future__ import annotations

import importlib

import pytest
import torch

from tests.ops.scan_cases import assert_results_close, make_inputs, random_routes, to_double
from visionssm.ops import selective_scan

triton_impl = importlib.import_module("visionssm.ops.selective_scan.triton_impl")

# b, k, l, d, n, and channels of a tile: full width, few channels, more states than fit.
TILES = [
    ((1, 2, 18, 64, 2), 32),
    ((1, 2, 6, 3, 3), 4),
    ((1, 1, 9, 33, 40), 16),
]


@pytest.mark.parametrize(("shape", "channels"), TILES)
def test_equals_reference(shape, channels, monkeypatch):
    sizes = []
    forward_tile = triton_impl._Call.forward_tile

    def record(call):
        sizes.append(forward_tile(call)["BD"])
        return forward_tile(call)

    monkeypatch.setattr(triton_impl._Call, "forward_tile", record)
    _, k, l, _, _ = shape
    inputs, how = make_inputs(*shape), {"routes": random_routes(k, l), "complete": True}
    how["return_last_state"] = True
    with torch.no_grad():
        exact = selective_scan(**to_double(inputs), implementation="reference", **how)
        actual = selective_scan(**inputs, implementation="triton", **how)
    assert sizes == [channels]
    expected = dict(zip(("y", "last_state"), exact, strict=True))
    assert_results_close(dict(zip(expected, actual, strict=True)), expected, l)


def test_every_sixteenth_state_is_saved_whatever_the_tile():
    inputs = make_inputs(1, 1, 37, 5, 3)
    u, delta, A, B, C, D, bias = (t.detach() for t in inputs.values())
    A = A.mT
    call = triton_impl._Call(u, delta, A, B, C, D, bias, None, None, True, True)
    states = torch.full((1, 1, 3, 3, 5), torch.nan)
    call.run_forward(call.segment_starts(), states=states)
    for i, steps in enumerate((0, 16, 32)):
        part = [t[:, :, :steps] for t in (u, delta)]
        BC = [t[:, :, :steps] for t in (B, C)]
        expected = torch.zeros(1, 1, 5, 3)
        if steps:
            expected = triton_impl.selective_scan_forward(
                *part, A, *BC, D, bias, None, None, True, False, True, False
            )[1]
        torch.testing.assert_close(states[:, :, i].mT, expected)
