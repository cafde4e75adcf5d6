"""Windows and subsampled grids, pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visionssm.scans import atrous, atrous_rows, atrous_window, get_scan, local, strided, window

sides = st.integers(1, 20)
small = st.integers(1, 5)


def padded_walk(grid, multiple, key):
    """Tokens of the padded grid in the order of `key(i, j)`, -1 outside of the grid."""
    height, width = grid
    up = [-(-size // multiple) * multiple for size in grid]
    cells = sorted(((i, j) for i in range(up[0]) for j in range(up[1])), key=lambda c: key(*c))
    return [i * width + j if i < height and j < width else -1 for i, j in cells]


@given(height=sides, width=sides, size=small, rate=small)
def test_atrous_windows(height, width, size, rate):
    block = size * rate

    def key(i, j):
        phase, cell = (i % rate, j % rate), (i // rate % size, j // rate % size)
        return i // block, j // block, phase, cell

    rows, columns, *reversed_ = atrous_window((height, width), size=size, rate=rate).tolist()
    assert rows == padded_walk((height, width), block, key)
    by_columns = padded_walk((width, height), block, key)
    assert columns == [t if t < 0 else t % height * width + t // height for t in by_columns]
    assert reversed_ == [rows[::-1], columns[::-1]]


@given(height=sides, width=sides, size=small)
def test_windows_are_atrous_windows_without_gaps(height, width, size):
    grid = (height, width)
    assert torch.equal(window(grid, size=size), atrous_window(grid, size=size, rate=1))


@given(height=sides, width=sides, step=small)
def test_atrous_offsets(height, width, step):
    grid = (height, width)
    down, across = -(-height // step), -(-width // step)

    def token(i, j):
        return i * width + j if i < height and j < width else -1

    for k, route in enumerate(atrous(grid, step=step).tolist()):
        b, a = divmod(k, step)
        cells = [(y, x) for y in range(down) for x in range(across)]
        if k % 2 == 1:
            cells = [(y, x) for x in range(across) for y in range(down)]
        assert route == [token(y * step + a, x * step + b) for y, x in cells]
    for k, route in enumerate(atrous_rows(grid, step=step).tolist()):
        a, b = divmod(k, step)
        cells = [(y, x) for y in range(down) for x in range(across)]
        assert route == [token(y * step + a, x * step + b) for y, x in cells]


def test_strided_tokens():
    assert strided((2, 4), step=3).tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, -1]]


@given(height=sides, width=sides)
def test_directions_of_local_mamba(height, width):
    """Positions as stated for the official code: windows by rows, flipped after padding."""
    grid = (height, width)
    names = ("h", "v_flip", "w3", "w2_flip")
    routes = local(grid, directions=names).tolist()
    expected = [
        padded_walk(grid, 1, lambda i, j: (i, j)),
        padded_walk(grid, 1, lambda i, j: (j, i))[::-1],
        padded_walk(grid, 3, lambda i, j: (i // 3, j // 3, i % 3, j % 3)),
        padded_walk(grid, 2, lambda i, j: (i // 2, j // 2, i % 2, j % 2))[::-1],
    ]
    longest = max(map(len, expected))
    assert routes == [route + [-1] * (longest - len(route)) for route in expected]


@pytest.mark.parametrize(("name", "message"), [
    ("atrous(step=0)", "step: expected a positive integer, got 0"),
    ("atrous_rows(step=1.5)", "step: expected a positive integer, got 1.5"),
    ("strided(step='2')", "step: expected a positive integer, got '2'"),
    ("window(size=-7)", "size: expected a positive integer, got -7"),
    ("atrous_window(rate=0)", "rate: expected a positive integer, got 0"),
    ("local(directions=('w0',))", "size: expected a positive integer, got 0"),
    ("local(directions=('h', 'd'))", "directions: expected h, v or w7 .* got 'd'"),
    ("local(directions=())", "directions: expected a tuple of names"),
    ("local(directions=(2,))", "directions: expected a tuple of names"),
])  # fmt: skip
def test_impossible_options_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        get_scan(name)
