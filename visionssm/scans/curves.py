"""Space-filling curves over grids of any size, in two and three dimensions.

A curve numbers the cells of a square (cube) whose side is a power of two; a grid of any other size
takes the smallest one that holds it and leaves out the cells outside.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .orders import both_ways, check_grid
from .registry import Device, Grid, register_scan

CODE_BITS = 63  # of a non-negative int64


def hilbert_code(coordinates: Tensor, bits: int) -> Tensor:
    """Place of cells on Hilbert's curve: integers (..., 2 or 3) to int64 (...).

    Args:
        coordinates: from 0 to 2^bits - 1; not checked, so that a GPU need not be waited for.
        bits: levels of the curve. Its first steps turn with every level, so cells compare only
            under the same `bits`.

    Raises:
        ValueError: coordinates are not integers of two or three axes, or the code exceeds 63 bits.

    Source: J. Skilling, Programming the Hilbert curve, AIP Conference Proceedings 707 (2004).
    """
    axes = _axes(coordinates, bits)
    for level in reversed(range(1, bits)):
        low = (1 << level) - 1
        for axis in range(len(axes)):
            # Where this bit is set, reflect the finer levels of axis 0; elsewhere exchange them.
            set_ = (axes[axis] >> level & 1).bool()
            change = (axes[0] ^ axes[axis]) & low
            axes[axis] = torch.where(set_, axes[axis], axes[axis] ^ change)
            axes[0] = torch.where(set_, axes[0] ^ low, axes[0] ^ change)
    for axis in range(1, len(axes)):
        axes[axis] = axes[axis] ^ axes[axis - 1]
    turn = torch.zeros_like(axes[0])
    for level in range(1, bits):
        turn = turn ^ (axes[-1] >> level & 1) * ((1 << level) - 1)
    return _interleave([axis ^ turn for axis in axes], bits)


def z_order_code(coordinates: Tensor, bits: int) -> Tensor:
    """Morton code of cells, bits interleaved with the first axis highest; as `hilbert_code`."""
    return _interleave(_axes(coordinates, bits), bits)


def _u_code(coordinates: Tensor, bits: int) -> Tensor:
    x, y = _axes(coordinates, bits)
    return _interleave([x, x ^ y], bits)


def _curve(code: Callable[[Tensor, int], Tensor], grid: Grid, device: Device) -> Tensor:
    """A curve and its transpose, both ways, over a grid of two or three axes."""
    if len(grid) not in (2, 3) or any(size < 1 for size in grid):
        raise ValueError(
            f"grid: expected (height, width) or (depth, height, width), all at least 1, got {grid}"
        )
    bits = 1
    while any(size > 1 << bits for size in grid):
        bits += 1
    ranges = [torch.arange(size, device=device) for size in grid]
    cells = torch.stack(torch.meshgrid(*ranges, indexing="ij"), dim=-1).flatten(0, -2)
    swapped = cells[:, [1, 0, *range(2, len(grid))]]
    codes = torch.stack([code(cells, bits), code(swapped, bits)])
    return both_ways(codes.argsort(dim=1).int())


def _axes(coordinates: Tensor, bits: int) -> list[Tensor]:
    """Coordinates (..., n) as n int64 tensors (...)."""
    if coordinates.is_floating_point() or coordinates.shape[-1:] not in ((2,), (3,)):
        raise ValueError(
            "coordinates: expected integers of shape (..., 2) or (..., 3), "
            f"got {coordinates.dtype} {tuple(coordinates.shape)}"
        )
    most = CODE_BITS // coordinates.shape[-1]
    if not 1 <= bits <= most:
        raise ValueError(f"bits: expected 1 to {most}, got {bits}")
    return list(coordinates.long().unbind(-1))


def _interleave(axes: list[Tensor], bits: int) -> Tensor:
    """Bit by bit, the highest of the first axis first."""
    code = torch.zeros_like(axes[0])
    for level in reversed(range(bits)):
        for axis in axes:
            code = code << 1 | (axis >> level & 1)
    return code


@register_scan()
def hilbert(grid: Grid, device: Device = None) -> Tensor:
    """Hilbert's curve, the same with the first two axes exchanged, and both reversed: int32 (4, l).

    On a square (cube) whose side is a power of two each step goes to a neighbour. The grid is
    (height, width) or (depth, height, width).
    """
    return _curve(hilbert_code, grid, device)


@register_scan()
def z_order(grid: Grid, device: Device = None) -> Tensor:
    """Morton's order, the same with the first two axes exchanged, both reversed: int32 (4, l).

    The grid is (height, width) or (depth, height, width).
    """
    return _curve(z_order_code, grid, device)


@register_scan()
def u_order(grid: Grid, device: Device = None) -> Tensor:
    """A U of four blocks, in each block another, and so on; transposed; reverses: int32 (4, l).

    Like Hilbert's curve without its rotations, so that it jumps between blocks. Source: OccMamba,
    arXiv 2408.09859, whose released code walks the ground plane in this order.
    """
    check_grid(grid)
    return _curve(_u_code, grid, device)


def height_first(routes: Tensor, height: int) -> Tensor:
    """Routes over a ground plane (k, s) as routes over its voxels (k, s height).

    At each cell of the plane all voxels follow from the lowest up. Voxel z of cell p is token
    p height + z.

    Source: OccMamba, arXiv 2408.09859, height-prioritised 2D expansion.
    """
    if height < 1:
        raise ValueError(f"height: expected at least 1, got {height}")
    z = torch.arange(height, dtype=routes.dtype, device=routes.device)
    voxels = routes[..., None] * height + z
    return voxels.where(routes[..., None] >= 0, -1).flatten(-2)
