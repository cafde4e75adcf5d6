"""The basic scan orders: row-major token indices of a grid (height, width), step by step."""

from __future__ import annotations

import torch
from torch import Tensor

from .registry import Grid, register_scan

Device = torch.device | str | None


@register_scan(num_routes=1)
def raster(grid: Grid, device: Device = None) -> Tensor:
    """Row by row, each from left to right: int32 (1, height * width)."""
    height, width = check_grid(grid)
    return torch.arange(height * width, dtype=torch.int32, device=device)[None]


@register_scan(num_routes=2)
def bidirectional(grid: Grid, device: Device = None) -> Tensor:
    """Raster order and its reverse: int32 (2, height * width). Source: Vim, arXiv 2401.09417."""
    forward = raster(grid, device)
    return torch.cat([forward, reversed_routes(forward)])


@register_scan(num_routes=4)
def cross_scan(grid: Grid, device: Device = None) -> Tensor:
    """Rows, columns, rows reversed, columns reversed: int32 (4, height * width).

    Source: VMamba, arXiv 2401.10166, section 4.2 (2D selective scan).
    """
    height, width = check_grid(grid)
    rows = raster(grid, device)
    columns = rows.view(height, width).t().reshape(1, -1)
    forward = torch.cat([rows, columns])
    return torch.cat([forward, reversed_routes(forward)])


def reversed_routes(routes: Tensor) -> Tensor:
    """The same routes walked from their last step to their first: (..., s) -> (..., s)."""
    return routes.flip(-1)


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


def check_grid(grid: Grid) -> Grid:
    """The grid, if it is (height, width) with at least one token; ValueError otherwise."""
    if len(grid) != 2 or any(size < 1 for size in grid):
        raise ValueError(f"grid: expected (height, width), both at least 1, got {grid}")
    return grid
