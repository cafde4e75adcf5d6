"""Pictures of routes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from .._files import replacing
from .orders import check_grid
from .registry import Grid, get_scan, list_scans

ROUTES_IN_A_ROW = 4
GALLERY_SCANS_IN_A_ROW = 2


def draw(routes: Tensor, grid: Grid, path: str | os.PathLike[str]) -> Path:
    """Write a PNG of the path that each route takes over the grid, dark at its start.

    Args:
        routes: one route (s,) or several (k, s), four in a row; padding steps are left out.
        grid: (height, width).
        path: the file to write; it appears whole or not at all.

    Returns:
        The path written.

    Raises:
        ValueError: routes has another shape, or an index outside of the grid.
        ImportError: matplotlib is missing.
    """
    from matplotlib.figure import Figure

    height, width = check_grid(grid)
    table = routes.detach().cpu()
    table = table[None] if table.dim() == 1 else table
    if table.dim() != 2 or table.numel() == 0:
        raise ValueError(f"routes: expected shape (s,) or (k, s), got {tuple(routes.shape)}")
    if int(table.min()) < -1 or int(table.max()) >= height * width:
        raise ValueError(
            f"routes: expected indices in [-1, {height * width}) for a {height} x {width} grid, "
            f"got [{int(table.min())}, {int(table.max())}]"
        )
    columns = min(len(table), ROUTES_IN_A_ROW)
    rows = -(-len(table) // columns)
    figure = Figure(
        figsize=(3.2 * columns, (3.4 * height / width + 0.4) * rows), layout="constrained"
    )
    axes = _panels(figure, rows, columns).flatten()
    for k, (axis, route) in enumerate(zip(axes, table, strict=False)):
        _draw_route(axis, route, (height, width), f"route {k}", dot=16)
    return _save(figure, path)


def gallery(path: str | os.PathLike[str], grid: Grid = (14, 14)) -> Path:
    """Write a PNG with the first four routes of every registered scan; as `draw`."""
    from matplotlib.figure import Figure

    height, width = check_grid(grid)
    names = list_scans()
    rows = -(-len(names) // GALLERY_SCANS_IN_A_ROW)
    columns = GALLERY_SCANS_IN_A_ROW * ROUTES_IN_A_ROW
    figure = Figure(
        figsize=(1.7 * columns, (1.7 * height / width + 0.3) * rows), layout="constrained"
    )
    axes = _panels(figure, rows, columns).reshape(-1, ROUTES_IN_A_ROW)
    for name, panel in zip(names, axes, strict=False):
        routes = get_scan(name).function((height, width))
        for k, (axis, route) in enumerate(zip(panel, routes, strict=False)):
            title = name if k == 0 else f"{k + 1} of {len(routes)}"
            _draw_route(axis, route, (height, width), title, dot=3)
    return _save(figure, path)


def _panels(figure: Any, rows: int, columns: int) -> Any:
    """Axes (rows, columns), invisible until a route is drawn in them."""
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flatten():
        axis.set_axis_off()
    return axes


def _draw_route(axis: Any, route: Tensor, grid: tuple[int, int], title: str, dot: float) -> None:
    height, width = grid
    tokens = route[route >= 0].numpy()
    y, x = tokens // width, tokens % width
    axis.set_axis_on()
    axis.plot(x, y, color="0.75", linewidth=1, zorder=1)
    axis.scatter(x, y, c=range(len(tokens)), cmap="viridis", s=dot, zorder=2)
    axis.set(title=title, xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axis.set(xticks=[], yticks=[], aspect="equal")


def _save(figure: Any, path: str | os.PathLike[str]) -> Path:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return Path(path)
