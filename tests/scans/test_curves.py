"""Space-filling curves: their codes, and their walks over grids of any size."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visionssm.scans import (
    height_first,
    hilbert,
    hilbert_code,
    inverse,
    u_order,
    z_order,
    z_order_code,
)

volumes = st.lists(st.integers(1, 12), min_size=2, max_size=3).map(tuple)


def cells(grid: tuple[int, ...]) -> torch.Tensor:
    return torch.cartesian_prod(*map(torch.arange, grid)).view(-1, len(grid))


@pytest.mark.parametrize("grid", [(2, 2), (16, 16), (2, 2, 2), (8, 8, 8)])
def test_hilberts_curve_goes_from_neighbour_to_neighbour(grid):
    for route in hilbert(grid):
        assert (cells(grid)[route].diff(dim=0).abs().sum(1) == 1).all()


@given(grid=volumes, curve=st.sampled_from([hilbert, z_order]))
def test_a_grid_of_any_size_keeps_the_order_of_the_curve_around_it(grid, curve):
    side = 1 << max(max(grid) - 1, 1).bit_length()
    around = cells((side,) * len(grid))[curve((side,) * len(grid))[0]]
    inside = around[(around < torch.tensor(grid)).all(1)]
    routes = curve(grid)
    assert torch.equal(cells(grid)[routes[0]], inside)
    assert torch.equal(routes[2:], routes[:2].flip(1))
    assert torch.equal(routes.sort().values, torch.arange(math.prod(grid)).int().expand(4, -1))


@given(grid=volumes, curve=st.sampled_from([hilbert, z_order]), seed=st.integers(0, 2**31))
def test_inverse_restores_the_volume(grid, curve, seed):
    routes = curve(grid).long()
    x = torch.randn(math.prod(grid), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(x[routes].gather(1, inverse(routes).long()), x.expand(4, -1))


@given(grid=volumes, curve=st.sampled_from([hilbert, z_order]))
def test_the_second_route_exchanges_the_first_two_axes(grid, curve):
    swapped = (grid[1], grid[0], *grid[2:])
    walk = cells(swapped)[curve(swapped)[0]]
    assert torch.equal(cells(grid)[curve(grid)[1]], walk[:, [1, 0, *range(2, len(grid))]])


@pytest.mark.parametrize("code", [hilbert_code, z_order_code])
@pytest.mark.parametrize("axes", [2, 3])
def test_codes_number_all_cells(code, axes):
    codes = code(cells((8,) * axes), 3)
    assert torch.equal(codes.sort().values, torch.arange(8**axes))


def test_codes_of_sixteen_bits_an_axis_do_not_overflow():
    corners = torch.tensor([[0, 0, 0], [2**16 - 1] * 3], dtype=torch.int32)
    assert z_order_code(corners, 16).tolist() == [0, 2**48 - 1]
    far = torch.stack([torch.full((5,), 2**21 - 1), torch.zeros(5), torch.arange(5)], 1).long()
    codes = hilbert_code(far, 21)
    assert codes.min() >= 0
    assert codes.unique().numel() == 5


def test_u_order_of_two_levels():
    u = [(0, 0), (0, 1), (1, 1), (1, 0)]
    walk = [(2 * y + i, 2 * x + j) for y, x in u for i, j in u]
    assert [divmod(token, 4) for token in u_order((4, 4))[0].tolist()] == walk


def test_height_first_keeps_padding():
    routes = torch.tensor([[1, -1, 0]], dtype=torch.int32)
    assert height_first(routes, 2).tolist() == [[2, 3, -1, -1, 0, 1]]
    with pytest.raises(ValueError, match="height: expected at least 1, got 0"):
        height_first(routes, 0)


@pytest.mark.parametrize(("coordinates", "bits", "message"), [
    (torch.zeros(4, 3), 2, "coordinates: expected integers"),
    (torch.zeros(4, 4, dtype=torch.long), 2, "coordinates: expected integers"),
    (torch.zeros(4, 3, dtype=torch.long), 22, "bits: expected 1 to 21, got 22"),
    (torch.zeros(4, 2, dtype=torch.long), 0, "bits: expected 1 to 31, got 0"),
])  # fmt: skip
def test_impossible_codes_are_refused(coordinates, bits, message):
    for code in (hilbert_code, z_order_code):
        with pytest.raises(ValueError, match=message):
            code(coordinates, bits)


@pytest.mark.parametrize("grid", [(2, 2, 2, 2), (2, 0, 2), (3,)])
def test_grids_of_other_dimensions_are_refused(grid):
    with pytest.raises(ValueError, match=r"grid: expected \(height, width\) or"):
        hilbert(grid)
