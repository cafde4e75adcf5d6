"""Pictures of routes."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from .orders import check_grid
from .registry import Grid


def draw(routes: Tensor, grid: Grid, path: str | os.PathLike[str]) -> Path:
    """Write a PNG of the path that each route takes over the grid, dark at its start.

    Args:
        routes: one route (s,) or several (k, s), drawn side by side; padding steps are left out.
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
    figure = Figure(figsize=(3.2 * len(table), 3.4 * height / width + 0.4), layout="constrained")
    axes = figure.subplots(1, len(table), squeeze=False)[0]
    for k, (axis, route) in enumerate(zip(axes, table, strict=True)):
        tokens = route[route >= 0].numpy()
        y, x = tokens // width, tokens % width
        axis.plot(x, y, color="0.75", linewidth=1, zorder=1)
        axis.scatter(x, y, c=range(len(tokens)), cmap="viridis", s=16, zorder=2)
        axis.set(title=f"route {k}", xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        axis.set(xticks=[], yticks=[], aspect="equal")
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=120)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
