"""Scans of parts of the grid: windows one after another, and subsampled (atrous) grids.

Where a size does not divide the grid, it grows to the right and at the bottom by padding steps, -1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .orders import (
    both_ways,
    check_grid,
    cross_scan,
    join_routes,
    raster,
    reversed_routes,
    transposed_routes,
)
from .registry import Device, Grid, register_scan


def _windows(grid: Grid, device: Device, size: int, rate: int) -> Tensor:
    height, width = check_grid(grid)
    columns = transposed_routes(_window_route((width, height), device, size, rate), grid)
    return both_ways(torch.cat([_window_route(grid, device, size, rate), columns]))


def _window_route(grid: Grid, device: Device, size: int, rate: int = 1) -> Tensor:
    _check_positive("size", size)
    _check_positive("rate", rate)
    block = size * rate
    tokens = _padded(grid, device, block)
    rows, columns = tokens.shape[0] // block, tokens.shape[1] // block
    cells = tokens.view(rows, size, rate, columns, size, rate)
    return cells.permute(0, 3, 2, 5, 1, 4).reshape(1, -1)


def _direction(grid: Grid, device: Device, name: str) -> Tensor:
    order = name.removesuffix("_flip")
    if order in ("h", "v"):
        route = cross_scan(grid, device)["hv".index(order)][None]
    elif order[:1] == "w" and order[1:].isdecimal():
        route = _window_route(grid, device, int(order[1:]))
    else:
        raise ValueError(
            f"directions: expected h, v or w7 (any size), with or without _flip, got {name!r}"
        )
    return route if order == name else reversed_routes(route)


def _phases(grid: Grid, device: Device, step: int) -> Tensor:
    """Tokens by (row of the subsampled grid, row offset, its column, column offset)."""
    _check_positive("step", step)
    tokens = _padded(grid, device, step)
    return tokens.view(tokens.shape[0] // step, step, tokens.shape[1] // step, step)


def _padded(grid: Grid, device: Device, multiple: int) -> Tensor:
    """Token indices (h', w'), both sides multiples, -1 outside of the grid."""
    height, width = check_grid(grid)
    tokens = raster(grid, device).view(height, width)
    return F.pad(tokens, (0, -width % multiple, 0, -height % multiple), value=-1)


def _check_positive(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected a positive integer, got {value!r}")


@register_scan(padded=True)
def window(grid: Grid, device: Device = None, *, size: int = 7) -> Tensor:
    """Windows by rows, each by rows; windows by columns, each by columns; reverses: int32 (4, s).

    `size` is the height and width of a window.
    """
    return _windows(grid, device, size, rate=1)


@register_scan(padded=True)
def atrous_window(grid: Grid, device: Device = None, *, size: int = 7, rate: int = 2) -> Tensor:
    """Windows of size x size tokens that lie `rate` apart; by columns; reverses: int32 (4, s).

    Blocks of (size rate)^2 tokens follow by rows, in each its rate^2 windows, in each its tokens.
    With rate 1 it is `window`.

    Source: our reading of the abstract of AtrousMamba, arXiv 2507.16172.
    """
    return _windows(grid, device, size, rate)


@register_scan(padded=True)
def local(
    grid: Grid,
    device: Device = None,
    *,
    directions: tuple[str, ...] = ("h", "h_flip", "w2", "w2_flip"),
) -> Tensor:
    """A list of LocalMamba's directions, shorter ones padded at their end: int32 (directions, s).

    "h" goes by rows, "v" by columns, "w7" by rows of windows of 7 x 7; "_flip" appended walks the
    route backwards, padding included.

    Source: LocalMamba, arXiv 2403.09338, section 3.
    """
    if not directions or not all(isinstance(name, str) for name in directions):
        raise ValueError(f"directions: expected a tuple of names, got {directions!r}")
    return join_routes(*(_direction(grid, device, name) for name in directions))


@register_scan(covers=False, padded=True)
def atrous(grid: Grid, device: Device = None, *, step: int = 2) -> Tensor:
    """Every step-th row and column, a route for each offset: int32 (step^2, s), s = l / step^2.

    Each token has its one route. The row offset runs faster; every second route goes by columns.

    Source: EfficientVMamba, arXiv 2403.09977, section 3.2 (efficient 2D scanning), whose released
    code has step 2.
    """
    rows = _phases(grid, device, step).permute(3, 1, 0, 2)  # (column, row offset, row, column)
    by_rows, by_columns = rows.flatten(2).flatten(0, 1), rows.mT.flatten(2).flatten(0, 1)
    odd = torch.arange(step**2, device=device) % 2 == 1
    return torch.where(odd[:, None], by_columns, by_rows)


@register_scan(covers=False, padded=True)
def atrous_rows(grid: Grid, device: Device = None, *, step: int = 2) -> Tensor:
    """Every step-th row and column, all by rows, the column offset runs faster: int32 (step^2, s).

    Source: ASP-VMUNet's atrous scan, as released.
    """
    phases = _phases(grid, device, step).permute(1, 3, 0, 2)
    return phases.contiguous().flatten(2).flatten(0, 1)


@register_scan(covers=False, padded=True)
def strided(grid: Grid, device: Device = None, *, step: int = 2) -> Tensor:
    """Every step-th token of the raster order, a route for each offset: int32 (step, s).

    Source: ASP-VMUNet's one-dimensional atrous scan, as released.
    """
    _check_positive("step", step)
    tokens = raster(grid, device)
    return F.pad(tokens, (0, -tokens.shape[1] % step), value=-1).view(-1, step).t().contiguous()
