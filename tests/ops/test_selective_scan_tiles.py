"""Tiles of the kernels: their sizes, and results where they differ."""

from __future__ import annotations

import importlib

import pytest
import torch

from tests.ops.scan_cases import (
    assert_results_close,
    make_inputs,
    outputs_and_gradients,
    random_gaps,
    random_routes,
    to_double,
)
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
    forward_launch = triton_impl._Call.forward_launch

    def record(call):
        sizes.append(forward_launch(call)["BD"])
        return forward_launch(call)

    monkeypatch.setattr(triton_impl._Call, "forward_launch", record)
    _, k, l, _, _ = shape
    inputs, how = make_inputs(*shape), {"routes": random_routes(k, l), "complete": True}
    how["return_last_state"] = True
    with torch.no_grad():
        exact = selective_scan(**to_double(inputs), implementation="reference", **how)
        actual = selective_scan(**inputs, implementation="triton", **how)
    assert sizes == [channels]
    expected = dict(zip(("y", "last_state"), exact, strict=True))
    assert_results_close(dict(zip(expected, actual, strict=True)), expected, l)


@pytest.mark.parametrize("n", [1, 3])
def test_every_sixteenth_state_is_saved_whatever_the_tile(n):
    inputs = make_inputs(1, 1, 37, 5, n)
    u, delta, A, B, C, D, bias = (t.detach() for t in inputs.values())
    A = A.mT
    call = triton_impl._Call(u, delta, A, B, C, D, bias, None, None, None, True, True, True)
    states = torch.full((1, 1, 3, n, 5), torch.nan)
    call.run_forward(call.segment_starts(), states=states)
    for i, steps in enumerate((0, 16, 32)):
        part = [t[:, :, :steps] for t in (u, delta)]
        BC = [t[:, :, :steps] for t in (B, C)]
        expected = torch.zeros(1, 1, 5, n)
        if steps:
            expected = triton_impl.selective_scan_forward(
                *part, A, *BC, D, bias, None, None, None, True, 1, True, False
            )[1]
        torch.testing.assert_close(states[:, :, i].mT, expected)


@pytest.mark.parametrize(("few", "many"), [(1000, 0), (0, 1000), (0, 0)])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    ("l", "d", "complete", "clock"),
    [(1, 3, True, None), (16, 64, True, None), (50, 5, False, "elapsed"), (75, 64, True, "gaps")],
)
def test_tiles_of_one_state(monkeypatch, few, many, early, l, d, complete, clock):
    """Lengths that end in the first and in the second run, widths that do not fill a program."""
    monkeypatch.setattr(triton_impl, "NARROW_PROGRAMS_PER_SM", few)
    monkeypatch.setattr(triton_impl, "WIDE_PROGRAMS_PER_SM", many)
    monkeypatch.setattr(triton_impl, "RESIDENT_PROGRAMS_PER_SM", 1)
    monkeypatch.setattr(triton_impl, "LIMITED_PROGRAMS_PER_SM", 0 if early else 1000)
    tile = triton_impl._one_state_tile(2, d, l, torch.device("cpu"))
    wide = not few and not many and d == 64
    assert (tile.runs, tile.run_steps) == (1 if wide else 2, 16 if few or wide else 8)
    launches = []
    backward_launch = triton_impl._Call.backward_launch

    def record(call):
        launches.append(backward_launch(call))
        return launches[-1]

    monkeypatch.setattr(triton_impl._Call, "backward_launch", record)
    inputs = make_inputs(1, 2, l, d, 1, elapsed=clock == "elapsed")
    how = {"routes": random_routes(2, l), "complete": complete}
    if clock == "gaps":
        how["gaps"] = random_gaps(1, 2, l)
    exact = outputs_and_gradients(to_double(inputs), **how, implementation="reference")
    actual = outputs_and_gradients(inputs, **how, implementation="triton")
    assert_results_close(actual, exact, l)
    assert {launch["EARLY"] for launch in launches} == {early and clock != "elapsed"}


def test_tile_of_one_state_by_number_of_programs_and_length(monkeypatch):
    monkeypatch.setattr(triton_impl, "_multiprocessors", lambda device: 132)
    monkeypatch.setattr(triton_impl, "interpreting", lambda: False)
    cuda = torch.device("cuda")
    narrow, usual, wide = (32, 2, 16), (64, 2, 8), (64, 1, 16)
    for routes, d, length, tile in (
        (256, 96, 3136, narrow),
        (256, 128, 784, usual),
        (256, 192, 784, usual),
        (256, 384, 196, wide),
        (1024, 96, 3136, usual),  # 64 do not divide it
        (32, 128, 16384, wide),  # the length is split
        (16, 96, 36864, usual),
        (4, 96, 16384, narrow),  # but not into enough segments
        (8, 384, 1024, narrow),
        (16, 768, 576, narrow),
    ):
        assert triton_impl._one_state_tile(routes, d, length, cuda) == tile


def test_rows_are_loaded_early_unless_fewer_registers_save_a_wave(monkeypatch):
    monkeypatch.setattr(triton_impl, "_multiprocessors", lambda device: 132)
    cuda = torch.device("cuda")
    for programs, limited in ((768, False), (1536, True), (1920, False), (3072, False)):
        assert triton_impl._is_one_limited_wave(programs, cuda) == limited
    for length, programs in ((16384, 192), (4096, 384), (36864, 48)):  # of detection, at 768
        segments = triton_impl._split_length(length, 16, programs, triton_impl.SLOTS, 128, cuda)
        assert not triton_impl._is_one_limited_wave(programs * segments.number, cuda)


def test_segments_are_whole_tiles_that_run_at_a_time(monkeypatch):
    monkeypatch.setattr(triton_impl, "_multiprocessors", lambda device: 132)
    cuda = torch.device("cuda")
    split = triton_impl._split_length
    assert split(6085, 16, 96, 12, 128, cuda) == (16, 384)  # 1536 of 1584
    assert split(6085, 16, 96, 8, 128, cuda) == (11, 560)  # 1056 of 1056
    assert split(6085, 32, 528, 12, 128, cuda) == (1, 6112)
    assert split(200, 16, 1, 12, 128, cuda) == (2, 128)
    assert split(200, 16, 1, 12, 64, cuda) == (4, 64)
    assert split(0, 16, 1, 12, 128, cuda) == (1, 128)
    assert split(0, 32, 528, 12, 128, cuda) == (1, 32)


@pytest.mark.parametrize(
    ("b", "k", "l", "d", "n", "forward", "backward"),
    [
        (1, 4, 196, 384, 1, 1, 1),  # too short to be split
        (1, 4, 784, 192, 1, 7, 7),
        (64, 4, 3136, 96, 1, 1, 1),
        (1, 2, 197, 384, 16, 4, 4),  # few programs: short segments
        (8, 1, 6085, 384, 16, 32, 11),  # two waves of them forward
        (1, 1, 16384, 384, 16, 128, 86),
    ],
)
def test_numbers_of_segments(monkeypatch, b, k, l, d, n, forward, backward):
    monkeypatch.setattr(triton_impl, "_multiprocessors", lambda device: 132)
    monkeypatch.setattr(triton_impl, "interpreting", lambda: False)
    monkeypatch.setattr(triton_impl, "check_device", lambda name, x: None)
    monkeypatch.setattr(triton_impl, "_is_split", lambda programs, device: programs < 4 * 132)
    x, A = torch.empty(1, 1, l, d).expand(b, k, l, d), torch.empty(k, n, d)
    B = torch.empty(1, 1, l, n).expand(b, k, l, n)
    call = triton_impl._Call(x, x, A, B, B, None, None, None, None, None, True, True, True)
    assert call.forward_segments.number == forward
    assert call.backward_segments.number == backward
