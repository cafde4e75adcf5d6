"""Routes are permutations in the order that their name promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visionssm.scans import (
    bidirectional,
    bitemporal,
    cross_scan,
    get_scan,
    inverse,
    join_routes,
    list_scans,
    multi_head,
    raster,
    reversed_routes,
    snake,
    spiral,
    transposed_routes,
    zigzag,
)

grids = st.tuples(st.integers(1, 40), st.integers(1, 40))
SCANS = [
    *list_scans(),
    "multi_head(heads='XS')",
    "atrous(step=1)",
    "atrous(step=3)",
    "atrous_rows(step=4)",
    "strided(step=5)",
    "window(size=3)",
    "atrous_window(size=2, rate=3)",
    "local(directions=('v', 'w7_flip', 'w3', 'v_flip'))",
]


@given(grid=grids, name=st.sampled_from(SCANS))
def test_each_token_is_visited_once(grid, name):
    """By every route of a scan that covers the grid, by one of all routes otherwise."""
    scan = get_scan(name)
    routes = scan.function(grid)
    assert routes.dtype == torch.int32
    assert routes.shape[0] == scan.num_routes
    assert routes.is_contiguous()
    tokens = torch.arange(grid[0] * grid[1], dtype=torch.int32)
    for visited in routes if scan.covers else [routes]:
        torch.testing.assert_close(visited[visited >= 0].sort().values, tokens)
    padded = bool((routes < 0).any())
    assert scan.padded or not padded
    assert scan.permutes(routes, len(tokens)) == (scan.covers and not padded)
    if scan.complete:
        assert scan.permutes(routes, len(tokens))


@given(grid=grids, name=st.sampled_from(SCANS), seed=st.integers(0, 2**31))
def test_inverse_restores_the_image(grid, name, seed):
    routes = get_scan(name).function(grid)
    tokens = torch.randn(grid[0] * grid[1], generator=torch.Generator().manual_seed(seed))
    steps = inverse(routes, len(tokens))
    walked = tokens[routes.clamp(min=0)]
    restored = walked.gather(1, steps.long().clamp(min=0))
    expected = tokens.expand_as(restored).where(steps >= 0, restored)
    torch.testing.assert_close(restored, expected, rtol=0, atol=0)
    assert (steps >= 0).any(0).all()


def steps_of(routes: torch.Tensor, width: int) -> torch.Tensor:
    """Distances in rows and columns from each step to the next: (2, k, s - 1)."""
    return torch.stack([routes // width, routes % width]).diff().abs()


@given(grid=grids, order=st.sampled_from([snake, spiral]))
def test_snakes_and_spirals_go_from_neighbour_to_neighbour(grid, order):
    assert (steps_of(order(grid), grid[1]).sum(0) == 1).all()


@given(grid=grids)
def test_a_zigzag_goes_along_diagonals_and_the_border(grid):
    assert (steps_of(zigzag(grid), grid[1]).amax(0) == 1).all()


@given(grid=grids)
def test_second_routes_are_the_first_seen_from_another_side(grid):
    height, width = grid
    tokens = raster(grid).view(grid)
    mirrored, upturned = tokens.flip(1).flatten(), tokens.flip(0).flatten()
    assert torch.equal(zigzag(grid)[1], mirrored[zigzag(grid)[0]])
    assert torch.equal(spiral(grid)[1], upturned[spiral(grid)[0]])
    assert torch.equal(snake(grid)[1], transposed_routes(snake((width, height))[0], grid))


def test_every_head_has_its_four_routes():
    grid = (3, 5)
    routes = multi_head(grid, heads="SZ")
    assert torch.equal(routes[[0, 2, 1, 3]], spiral(grid))
    assert torch.equal(routes[[4, 6, 5, 7]], cross_scan(grid))
    scan = get_scan("multi_head(heads='SZ')")
    assert (scan.num_routes, scan.routes_per_slice, scan.num_slices) == (8, 4, 2)
    assert get_scan("cross_scan").num_slices == 1


@given(grid=grids, layout=st.sampled_from(["interleave", "split"]))
def test_bitemporal_layouts_hold_both_images(grid, layout):
    height, width = grid
    images = torch.stack([raster(grid).view(grid), -raster(grid).view(grid)])
    wide = images.flatten()[bitemporal(grid, layout)].view(height, 2 * width)
    pick = (slice(0, None, 2), slice(1, None, 2))
    pick = pick if layout == "interleave" else (slice(0, width), slice(width, None))
    assert torch.equal(torch.stack([wide[:, p] for p in pick]), images)


def test_joined_routes_are_padded_at_their_end():
    routes = join_routes(raster((1, 2)), bidirectional((1, 3)))
    assert routes.tolist() == [[0, 1, -1], [0, 1, 2], [2, 1, 0]]


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
@pytest.mark.parametrize("name", SCANS)
def test_impossible_grids_are_refused(name, grid):
    with pytest.raises(ValueError, match="grid: expected"):
        get_scan(name).function(grid)


@pytest.mark.parametrize("heads", ["", "CQ", 3])
def test_unknown_heads_are_refused(heads):
    with pytest.raises(ValueError, match="heads: expected letters of 'CXSZ'"):
        multi_head((2, 2), heads=heads)


def test_unknown_layouts_are_refused():
    with pytest.raises(ValueError, match="layout: expected 'interleave' or 'split', got 'mix'"):
        bitemporal((2, 2), "mix")
