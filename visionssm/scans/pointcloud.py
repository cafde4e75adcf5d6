"""Orders of point clouds: coordinates to routes, a set for each cloud."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor

from .curves import height_first, hilbert, hilbert_code, u_order, z_order_code
from .registry import Device, Grid, is_traced

TRAVERSES = tuple(map("".join, permutations("xyz")))
POINT_ORDERS = (*TRAVERSES, "z", "z-trans", "hilbert", "hilbert-trans")
AXIS_BITS = 16
LAST_CELL = (1 << AXIS_BITS) - 1
PADDING_CODE = 1 << 3 * AXIS_BITS  # above all others


def serialize_points(
    coordinates: Tensor,
    orders: str | Sequence[str],
    grid_size: float,
    lengths: Tensor | None = None,
    *,
    compat: str | None = None,
) -> Tensor:
    """Routes over the points of each cloud, one for every order: int32 (b, k, points).

    Points are put into cubic cells, and visited cell by cell; those of one cell stay as they came.
    A cloud's routes do not depend on the others of the batch. The orders:

    - ``"xyz"`` and the five other permutations, a snake along the first axis, which turns at the
      end of each line, whose lines snake along the second axis, slice by slice of the third.
    - ``"z"``, ``"hilbert"``: space-filling curves.
    - ``"z-trans"``, ``"hilbert-trans"``: the same with x and y exchanged.

    Args:
        coordinates: (b, points, 3), real, in any unit.
        orders: one of `POINT_ORDERS` or k of them.
        grid_size: edge of a cell in that unit. A cloud extends over at most 2^16 cells an axis.
        lengths: points of each cloud (b,), integers; those behind are padding, and their steps, the
            last ones, are -1. None: all of them.
        compat: "released" gives the orders of the published code instead: a snake that sorts by the
            first axis alone, in a direction that depends on the extents of the whole batch, and
            Hilbert's curve at the depth that the largest cloud of the batch needs. Ties stay in
            order, and points in their cloud, which the published code does not warrant.

    Returns:
        ``routes[b, k, t]``, the point that order k visits at step t. `inverse` gives the step of
        each point.

    Raises:
        ValueError: an argument has the wrong shape, dtype or device, naming it, what was expected
            and what came. Values are checked on the CPU: coordinates that are not finite or extend
            too far, lengths out of range. On CUDA, where looking would stall the device, points
            that are not finite count as padding, and cells too far away as the last cell.

    Source: Point Cloud Mamba, arXiv 2403.00762, section 3.2 (consistent traverse serialization).
    """
    names = (orders,) if isinstance(orders, str) else tuple(orders)
    _check_arguments(coordinates, names, grid_size, lengths, compat)
    dtype = torch.promote_types(coordinates.dtype, torch.float32)
    coordinates = coordinates.detach().to(dtype)
    # By a tensor: by a number, CUDA multiplies with its inverse and cells differ from the CPU's.
    cells = (coordinates / coordinates.new_full((), grid_size)).floor()
    valid = cells.isfinite().all(-1)
    if lengths is not None:
        steps = torch.arange(coordinates.shape[1], device=coordinates.device)
        valid &= steps < lengths[:, None]
    if _values_can_be_read(coordinates):
        _check_finite(coordinates, valid, grid_size, lengths)
    cells = cells - cells.where(valid[..., None], math.inf).amin(1, keepdim=True)
    cells = cells.where(valid[..., None], 0)
    if _values_can_be_read(coordinates):
        _check_extent(cells, grid_size)
    cells = cells.clamp(max=LAST_CELL).long()
    codes = torch.stack([_code(cells, name, compat) for name in names], dim=1)
    codes = codes.where(valid[:, None], PADDING_CODE)
    codes, routes = codes.sort(dim=-1, stable=True)
    return routes.where(codes < PADDING_CODE, -1).int()


def voxel_orders(grid: Grid, device: Device = None, *, compat: str | None = None) -> Tensor:
    """Height-first orders of a voxel grid (x, y, z): int32 (4, x y z).

    The ground plane is walked along Hilbert's curve, and at each of its cells all voxels follow
    from the lowest up. The second route has x and y exchanged; the third and fourth are the first
    two walked from the opposite corner of the plane, still upwards. Voxel (i, j, k) is token
    (i y + j) z + k.

    Args:
        grid: numbers of voxels.
        device: of the result.
        compat: "released" walks the plane by `u_order`, as the published code does, which jumps
            between blocks.

    Raises:
        ValueError: grid is not three positive numbers, or compat is unknown.

    Source: OccMamba, arXiv 2408.09859, height-prioritised 2D expansion.
    """
    _check_compat(compat)
    if len(grid) != 3 or any(size < 1 for size in grid):
        raise ValueError(f"grid: expected (x, y, z), all at least 1, got {grid}")
    x, y, z = grid
    plane = (hilbert if compat is None else u_order)((x, y), device)[:2]
    return height_first(torch.cat([plane, x * y - 1 - plane]), z)


def _code(cells: Tensor, order: str, compat: str | None) -> Tensor:
    """Place of cells (b, points, 3) in an order: int64 (b, points), below `PADDING_CODE`."""
    x, y, z = cells.unbind(-1)
    if order in TRAVERSES:
        axes = {"x": x, "y": y, "z": z}
        snake = _snake if compat is None else _released_snake
        return snake(*(axes[axis] for axis in order))
    curve, _, transposed = order.partition("-")
    if transposed:
        cells = torch.stack([y, x, z], dim=-1)
    if curve == "z":
        return z_order_code(cells, AXIS_BITS)
    # The curve turns with its depth, so a cloud has its own. Finer levels do not change the order.
    extent = cells.amax((1, 2) if compat is None else (0, 1, 2), keepdim=True)
    powers = 1 << torch.arange(AXIS_BITS, device=cells.device)
    depth = (extent >= powers).sum(-1, keepdim=True)
    return hilbert_code(cells << (AXIS_BITS - depth), AXIS_BITS)


def _snake(first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """Line by line along the first axis, slice by slice, each backwards where its number is odd."""
    line = (second << AXIS_BITS) | (first ^ (second & 1) * LAST_CELL)
    return (third << 2 * AXIS_BITS) | (line ^ (third & 1) * ((1 << 2 * AXIS_BITS) - 1))


def _released_snake(first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """Along the first axis, backwards where the last numbers of the others add up to an odd one."""
    return first ^ ((second.amax() + third.amax()) & 1) * LAST_CELL


def _check_arguments(
    coordinates: Tensor,
    orders: tuple[str, ...],
    grid_size: float,
    lengths: Tensor | None,
    compat: str | None,
) -> None:
    shape = tuple(coordinates.shape)
    if len(shape) != 3 or shape[2] != 3 or coordinates.numel() == 0:
        raise ValueError(f"coordinates: expected (b, points, 3), at least one point, got {shape}")
    if not coordinates.is_floating_point():
        raise ValueError(f"coordinates: expected a real floating dtype, got {coordinates.dtype}")
    unknown = [order for order in orders if order not in POINT_ORDERS]
    if unknown or not orders:
        raise ValueError(f"orders: expected some of {POINT_ORDERS}, got {unknown or orders}")
    if not 0 < grid_size < math.inf:
        raise ValueError(f"grid_size: expected a positive number, got {grid_size}")
    if lengths is not None:
        if lengths.shape != shape[:1] or lengths.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"lengths: expected int32 or int64 of shape {shape[:1]}, "
                f"got {lengths.dtype} {tuple(lengths.shape)}"
            )
        if lengths.device != coordinates.device:
            raise ValueError(
                f"lengths: expected device {coordinates.device} as coordinates, "
                f"got {lengths.device}"
            )
    _check_compat(compat)


def _check_compat(compat: str | None) -> None:
    if compat not in (None, "released"):
        raise ValueError(f"compat: expected None or 'released', got {compat!r}")


def _values_can_be_read(tensor: Tensor) -> bool:
    """Where reading is free: not while tracing and not on a GPU."""
    return tensor.device.type == "cpu" and not is_traced(tensor)


def _check_finite(
    coordinates: Tensor, valid: Tensor, grid_size: float, lengths: Tensor | None
) -> None:
    b, points, _ = coordinates.shape
    if lengths is not None:
        if not 0 <= int(lengths.min()) <= int(lengths.max()) <= points:
            raise ValueError(f"lengths: expected 0 to {points}, got {lengths.tolist()}")
        valid = valid | (torch.arange(points, device=lengths.device) >= lengths[:, None])
    if not valid.all():
        cloud, point = (~valid).nonzero()[0].tolist()
        raise ValueError(
            f"coordinates: expected finite multiples of grid_size {grid_size}, "
            f"got {coordinates[cloud, point].tolist()} at point {point} of cloud {cloud}"
        )


def _check_extent(cells: Tensor, grid_size: float) -> None:
    extents = cells.amax(1) + 1
    if (extents > 1 << AXIS_BITS).any():
        cloud, axis = divmod(int(extents.argmax()), 3)
        raise ValueError(
            f"coordinates: expected at most {1 << AXIS_BITS} cells of grid_size {grid_size} an "
            f"axis, got {extents[cloud, axis]:.0f} along {'xyz'[axis]} in cloud {cloud}"
        )
