"""Scan strategies by name, and the one cached way to their route tables."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

Grid = tuple[int, int]
RouteFunction = Callable[..., Tensor]

CACHED_TABLES = 64


class Scan(NamedTuple):
    """A scan strategy: what a mixer has to know of it before it sees an image."""

    function: RouteFunction  # (grid, device=None) -> int32 routes (k, s)
    num_routes: int  # k, whatever the grid
    complete: bool  # every route visits every token


_scans: dict[str, Scan] = {}


def register_scan(
    *, num_routes: int, complete: bool = True
) -> Callable[[RouteFunction], RouteFunction]:
    """Register a function ``(grid, device=None) -> routes`` under its own name.

    Args:
        num_routes: the number k of routes that it returns for every grid.
        complete: each of its routes visits each token of the grid.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: RouteFunction) -> RouteFunction:
        name = function.__name__
        if name in _scans:
            raise ValueError(f"scan: {name!r} is registered already")
        _scans[name] = Scan(function, num_routes, complete)
        return function

    return register


def list_scans() -> list[str]:
    """Names of the registered scan strategies."""
    return sorted(_scans)


def get_scan(name: str) -> Scan:
    """The strategy of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in _scans:
        raise ValueError(f"scan: expected one of {list_scans()}, got {name!r}")
    return _scans[name]


def scan_routes(name: str, height: int, width: int, like: Tensor) -> Tensor:
    """Routes of a strategy over a grid, on the device of `like`: int32 (k, s).

    Eager calls share one cached table for each grid and device, which nobody may write to. While
    PyTorch traces (compile, export, fake tensors), the table is part of the graph instead: a few
    integer operations that follow dynamic sizes and that the compiler shares between layers.
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or type(like) is not Tensor
    if traced:
        return get_scan(name).function((height, width), device=like.device)
    return _cached_routes(name, height, width, like.device)


@lru_cache(maxsize=CACHED_TABLES)
def _cached_routes(name: str, height: int, width: int, device: torch.device) -> Tensor:
    # A table made in inference mode could not take part in a training step later on.
    with torch.inference_mode(False), torch.no_grad():
        return get_scan(name).function((height, width), device=device)
