"""Routes are permutations in the order that their name promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visionssm.scans import (
    bidirectional,
    cross_scan,
    get_scan,
    inverse,
    list_scans,
    raster,
    register_scan,
    reversed_routes,
)

grids = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(grid=grids, name=st.sampled_from(list_scans()))
def test_each_complete_route_visits_each_token_once(grid, name):
    scan = get_scan(name)
    routes = scan.function(grid)
    assert routes.dtype == torch.int32
    assert routes.shape[0] == scan.num_routes
    assert routes.is_contiguous()
    if scan.complete:
        tokens = torch.arange(grid[0] * grid[1], dtype=torch.int32)
        for route in routes:
            torch.testing.assert_close(route[route >= 0].sort().values, tokens)


@given(grid=grids, name=st.sampled_from(list_scans()), seed=st.integers(0, 2**31))
def test_inverse_restores_the_image(grid, name, seed):
    routes = get_scan(name).function(grid)
    tokens = torch.randn(grid[0] * grid[1], generator=torch.Generator().manual_seed(seed))
    for route, back in zip(routes, inverse(routes, len(tokens)), strict=True):
        walked = tokens[route.clamp(min=0)]
        torch.testing.assert_close(walked[back], tokens, rtol=0, atol=0)


@given(grid=grids)
def test_reversing_twice_changes_nothing(grid):
    routes = cross_scan(grid)
    assert torch.equal(reversed_routes(reversed_routes(routes)), routes)


def test_orders_over_two_rows_of_three():
    rows, columns = [0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5]
    assert raster((2, 3)).tolist() == [rows]
    assert bidirectional((2, 3)).tolist() == [rows, rows[::-1]]
    assert cross_scan((2, 3)).tolist() == [rows, columns, rows[::-1], columns[::-1]]


def test_inverse_of_routes_with_padding_and_unvisited_tokens():
    routes = torch.tensor([[2, -1, 0], [-1, -1, 1]], dtype=torch.int32)
    assert inverse(routes, num_tokens=4).tolist() == [[2, -1, 0, -1], [-1, 2, -1, -1]]


@pytest.mark.parametrize("grid", [(0, 3), (3, -1), (3,)])
def test_impossible_grids_are_refused(grid):
    with pytest.raises(ValueError, match="grid: expected"):
        cross_scan(grid)


def test_a_name_is_registered_once():
    def raster(grid, device=None):
        raise AssertionError

    with pytest.raises(ValueError, match="'raster' is registered already"):
        register_scan(num_routes=1)(raster)
    with pytest.raises(ValueError, match=r"scan: expected one of .*'cross_scan'"):
        get_scan("zigzag")
