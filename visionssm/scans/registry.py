"""Scan strategies by name, and the one cached way to their route tables."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

Grid = tuple[int, ...]
Device = torch.device | str | None
RouteFunction = Callable[..., Tensor]

CACHED_TABLES = 64


@dataclass(frozen=True)
class Scan:
    """A scan strategy: what a mixer has to know of it before it sees an image.

    Args:
        name: with its options, as in ``"atrous(step=3)"``.
        function: ``(grid, device=None) -> int32 routes (k, s)``; -1 is a padding step.
        num_routes: k, whatever the grid.
        covers: every route visits every token.
        padded: its tables may hold padding steps.
        routes_per_slice: None lets every route read all channels. Otherwise the channels are cut
            into k / routes_per_slice equal slices, and so many successive routes read each.

    Raises:
        ValueError: routes_per_slice does not divide num_routes.
    """

    name: str
    function: RouteFunction
    num_routes: int
    covers: bool = True
    padded: bool = False
    routes_per_slice: int | None = None

    def __post_init__(self):
        if self.num_routes < 1:
            raise ValueError(f"num_routes: expected at least 1, got {self.num_routes}")
        per_slice = self.routes_per_slice
        if per_slice is not None and (per_slice < 1 or self.num_routes % per_slice):
            raise ValueError(
                f"routes_per_slice: expected a divisor of {self.num_routes}, got {per_slice}"
            )

    @property
    def num_slices(self) -> int:
        """Into how many equal slices the channels are cut."""
        return 1 if self.routes_per_slice is None else self.num_routes // self.routes_per_slice

    @property
    def complete(self) -> bool:
        """Whether its routes are permutations on every grid, as `selective_scan` calls complete."""
        return self.covers and not self.padded

    def permutes(self, routes: Tensor, num_tokens: int) -> bool:
        """Whether this table of its holds permutations of the tokens; values stay unread."""
        return self.covers and routes.shape[-1] == num_tokens


@dataclass(frozen=True)
class _Registered:
    function: RouteFunction
    covers: bool
    padded: bool
    routes_per_slice: int | None

    def with_options(self, name: str, options: dict[str, Any]) -> Scan:
        function = partial(self.function, **options) if options else self.function
        num_routes = len(function((1, 1), device="cpu"))  # refuses impossible options, too
        return Scan(name, function, num_routes, self.covers, self.padded, self.routes_per_slice)


_registered: dict[str, _Registered] = {}
_scans: dict[str, Scan] = {}  # by name with options, as asked for


def register_scan(
    *, covers: bool = True, padded: bool = False, routes_per_slice: int | None = None
) -> Callable[[RouteFunction], RouteFunction]:
    """Register a function ``(grid, device=None, *, option=default, ...) -> routes`` by its name.

    It serves every grid (height, width) from (1, 1) on, where it is tried at once, always with the
    same number of routes. It consists of tensor operations without a look at values, so that it can
    be traced.

    Args:
        covers: each of its routes visits each token of the grid.
        padded: its tables may hold padding steps, -1.
        routes_per_slice: how many successive routes share a slice of the channels; None when
            every route reads them all.

    Raises:
        ValueError: the name is taken, or routes_per_slice does not divide the number of routes.
    """

    def register(function: RouteFunction) -> RouteFunction:
        name = function.__name__
        if name in _registered:
            raise ValueError(f"scan: {name!r} is registered already")
        entry = _Registered(function, covers, padded, routes_per_slice)
        _scans[name] = entry.with_options(name, {})
        _registered[name] = entry
        return function

    return register


def list_scans() -> list[str]:
    """Names of the registered scan strategies."""
    return sorted(_registered)


def get_scan(scan: str | Scan) -> Scan:
    """The strategy of a name, ``"atrous"``, or of a name with options, ``"atrous(step=3)"``.

    Options are Python literals; a `Scan` is returned as it is.

    Raises:
        ValueError: no strategy has that name, or it does not take the options.
    """
    if isinstance(scan, Scan):
        return scan
    if not isinstance(scan, str):
        raise ValueError(f"scan: expected a name or a Scan, got {scan!r}")
    if scan not in _scans:
        _scans[scan] = _resolve(scan)
    return _scans[scan]


def _resolve(text: str) -> Scan:
    name, options = _parse(text)
    if name not in _registered:
        raise ValueError(f"scan: expected one of {list_scans()}, got {text!r}")
    known = scan_options(name)
    unknown = options.keys() - known.keys()
    if unknown:
        raise ValueError(
            f"scan: {name!r} takes the options {sorted(known)}, got {sorted(unknown)} in {text!r}"
        )
    return _registered[name].with_options(text, options)


def _parse(text: str) -> tuple[str, dict[str, Any]]:
    """`"name(key=literal, ...)"` to its parts."""
    try:
        tree = ast.parse(text, mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id, {}
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.args:
            options = {str(k.arg): ast.literal_eval(k.value) for k in tree.keywords if k.arg}
            if len(options) == len(tree.keywords):
                return tree.func.id, options
    except (SyntaxError, TypeError, ValueError):
        pass
    raise ValueError(f"scan: expected 'name' or 'name(option=value, ...)', got {text!r}")


def scan_options(name: str) -> dict[str, Any]:
    """Options of a registered scan and their defaults."""
    parameters = inspect.signature(_registered[name].function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def scan_routes(scan: str | Scan, height: int, width: int, like: Tensor) -> Tensor:
    """Routes of a strategy over a grid, on the device of `like`: int32 (k, s).

    Eager calls share one cached table for each grid and device, which nobody may write to. While
    PyTorch traces (compile, export, fake tensors), the table is part of the graph instead: a few
    integer operations that follow dynamic sizes and that the compiler shares between layers. A name
    with options has gone through `get_scan` before.

    Raises:
        ValueError: there is no such strategy, or its function returns something else than routes.
    """
    found = get_scan(scan)
    if is_traced(like):
        return found.function((height, width), device=like.device)
    return _cached_routes(found, height, width, like.device)


def is_traced(like: Tensor) -> bool:
    """Whether what comes of this tensor is part of a graph, or it has no values at all."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or type(like) is not Tensor


@lru_cache(maxsize=CACHED_TABLES)
def _cached_routes(scan: Scan, height: int, width: int, device: torch.device) -> Tensor:
    # A table made in inference mode could not take part in a training step later on.
    with torch.inference_mode(False), torch.no_grad():
        routes = scan.function((height, width), device=device)
    if routes.dtype != torch.int32 or routes.dim() != 2 or len(routes) != scan.num_routes:
        raise ValueError(
            f"scan: {scan.name!r} should return int32 routes ({scan.num_routes}, s), "
            f"got {routes.dtype} {tuple(routes.shape)}"
        )
    return routes
