"""The basic scan orders: row-major token indices of a grid (height, width), step by step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import Device, Grid, register_scan

HEADS = "CXSZ"


def reversed_routes(routes: Tensor) -> Tensor:
    """The same routes walked from their last step to their first: (..., s) -> (..., s)."""
    return routes.flip(-1)


def both_ways(routes: Tensor) -> Tensor:
    """The routes, then all of them reversed: (k, s) -> (2 k, s)."""
    return torch.cat([routes, reversed_routes(routes)])


def transposed_routes(routes: Tensor, grid: Grid) -> Tensor:
    """Routes over the transposed grid (width, height) as routes over `grid` (height, width)."""
    height, width = check_grid(grid)
    return (routes % height * width + routes // height).where(routes >= 0, -1)


def join_routes(*tables: Tensor) -> Tensor:
    """All routes of several tables in one, shorter ones padded at their end: (k, max s)."""
    steps = max(table.shape[-1] for table in tables)
    return torch.cat([F.pad(table, (0, steps - table.shape[-1]), value=-1) for table in tables])


def inverse(routes: Tensor, num_tokens: int | None = None) -> Tensor:
    """At which step a route visits each token: (..., s) -> int32 (..., l), -1 where it never does.

    Args:
        routes: routes without repeated tokens; -1 is a padding step.
        num_tokens: l, when it is not the number of steps s.
    """
    steps = routes.shape[-1]
    num_tokens = steps if num_tokens is None else num_tokens
    step = torch.arange(steps, dtype=torch.int32, device=routes.device).expand(routes.shape)
    # Padding steps land in a column of their own, which is cut off.
    found = step.new_full((*routes.shape[:-1], num_tokens + 1), -1)
    found.scatter_(-1, routes.long().where(routes >= 0, num_tokens), step)
    return found[..., :num_tokens]


def check_grid(grid: Grid) -> tuple[int, int]:
    """The grid, if it is (height, width) with at least one token; ValueError otherwise."""
    if len(grid) != 2 or any(size < 1 for size in grid):
        raise ValueError(f"grid: expected (height, width), both at least 1, got {grid}")
    return grid[0], grid[1]


def _rows_and_columns(grid: Grid, device: Device) -> Tensor:
    height, width = check_grid(grid)
    rows = raster(grid, device)
    return torch.cat([rows, rows.view(height, width).t().reshape(1, -1)])


def _snakes(grid: Grid, device: Device) -> Tensor:
    height, width = check_grid(grid)
    columns = _row_snake((width, height), device)
    return torch.cat([_row_snake(grid, device), transposed_routes(columns, grid)])


def _row_snake(grid: Grid, device: Device) -> Tensor:
    i, j = _rows_columns(grid, device)
    width = grid[1]
    return (i * width + torch.where(i % 2 == 0, j, width - 1 - j)).view(1, -1)


def _zigzags(grid: Grid, device: Device) -> Tensor:
    height, width = check_grid(grid)
    i, j = _rows_columns(grid, device)
    k = i + j  # number of the anti-diagonal
    corner = _triangle(k) - _triangle(k - height) - _triangle(k - width)  # tokens before it
    along = torch.where(k % 2 == 0, k.clamp(max=height - 1) - i, k.clamp(max=width - 1) - j)
    route = inverse((corner + along).view(1, -1))
    mirrored = route - 2 * (route % width) + width - 1
    return torch.cat([route, mirrored])


def _triangle(k: Tensor) -> Tensor:
    """Pairs of natural numbers with a sum below k."""
    k = k.clamp(min=0)
    return k * (k + 1) // 2


def _spirals(grid: Grid, device: Device) -> Tensor:
    height, width = check_grid(grid)
    i, j = _rows_columns(grid, device)
    ring = torch.minimum(torch.minimum(i, height - 1 - i), torch.minimum(j, width - 1 - j))
    before = height * width - (height - 2 * ring) * (width - 2 * ring)
    i, j = i - ring, j - ring
    bottom, right = height - 1 - 2 * ring, width - 1 - 2 * ring  # last row and column of the ring
    there, back = i + j, 2 * (bottom + right) - i - j
    along = torch.where((i == 0) | (j == right), there, back)
    route = inverse((before + along).view(1, -1))
    mirrored = (height - 1 - route // width) * width + route % width
    return torch.cat([route, mirrored])


def _rows_columns(grid: Grid, device: Device) -> tuple[Tensor, Tensor]:
    """Row and column of every token: int32 (height, width) each."""
    height, width = check_grid(grid)
    i = torch.arange(height, dtype=torch.int32, device=device)[:, None].expand(height, width)
    j = torch.arange(width, dtype=torch.int32, device=device).expand(height, width)
    return i, j


@register_scan()
def raster(grid: Grid, device: Device = None) -> Tensor:
    """Row by row, each from left to right: int32 (1, height * width)."""
    height, width = check_grid(grid)
    return torch.arange(height * width, dtype=torch.int32, device=device)[None]


@register_scan()
def bidirectional(grid: Grid, device: Device = None) -> Tensor:
    """Raster order and its reverse: int32 (2, height * width). Source: Vim, arXiv 2401.09417."""
    return both_ways(raster(grid, device))


@register_scan()
def cross_scan(grid: Grid, device: Device = None) -> Tensor:
    """Rows, columns, rows reversed, columns reversed: int32 (4, height * width).

    Source: VMamba, arXiv 2401.10166, section 4.2 (2D selective scan).
    """
    return both_ways(_rows_and_columns(grid, device))


@register_scan()
def snake(grid: Grid, device: Device = None) -> Tensor:
    """Rows and columns, every second one backwards, and their reverses: int32 (4, l).

    Each step goes to a neighbour. Source: head C of MHS-VM, arXiv 2406.05992.
    """
    return both_ways(_snakes(grid, device))


@register_scan()
def zigzag(grid: Grid, device: Device = None) -> Tensor:
    """Anti-diagonals, to and fro, from the top left and from the top right; reverses: int32 (4, l).

    Source: head X of MHS-VM, arXiv 2406.05992.
    """
    return both_ways(_zigzags(grid, device))


@register_scan()
def spiral(grid: Grid, device: Device = None) -> Tensor:
    """Inwards clockwise from the top left, counter-clockwise from the bottom left; reverses.

    int32 (4, l); each step goes to a neighbour. Source: head S of MHS-VM, arXiv 2406.05992.
    """
    return both_ways(_spirals(grid, device))


@register_scan(routes_per_slice=4)
def multi_head(grid: Grid, device: Device = None, *, heads: str = HEADS) -> Tensor:
    """A slice of the channels for each head, four routes in each: int32 (4 heads, l).

    `heads` are letters of "CXSZ": C `snake`, X `zigzag`, S `spiral`, Z rows and columns. The routes
    of a head are its first, the same reversed, its second, the same reversed.

    Source: multi-head scan, MHS-VM, arXiv 2406.05992.
    """
    if not isinstance(heads, str) or not heads or not set(heads) <= set(HEADS):
        raise ValueError(f"heads: expected letters of {HEADS!r}, got {heads!r}")
    patterns = {"C": _snakes, "X": _zigzags, "S": _spirals, "Z": _rows_and_columns}
    forward = torch.cat([patterns[letter](grid, device) for letter in heads])
    return torch.stack([forward, reversed_routes(forward)], dim=1).flatten(0, 1)


def bitemporal(grid: Grid, layout: str, device: Device = None) -> Tensor:
    """Two images side by side in one map (height, 2 width), as a route over both: int32 (1, 2 l).

    Token t l + p is pixel p of image t. The layout "interleave" alternates columns of the first
    and the second image, "split" puts the first to the left of the second. Permutations of the wide
    map become routes over both images by ``bitemporal(grid, layout)[0][routes]``.

    Source: ChangeMamba, arXiv 2404.03425, spatio-temporal relationships.
    """
    height, width = check_grid(grid)
    pixels = torch.arange(2 * height * width, dtype=torch.int32, device=device)
    frames = pixels.view(2, height, width)
    if layout not in ("interleave", "split"):
        raise ValueError(f"layout: expected 'interleave' or 'split', got {layout!r}")
    order = (1, 2, 0) if layout == "interleave" else (1, 0, 2)
    return frames.permute(order).reshape(1, -1)
