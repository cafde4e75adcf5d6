"""Space-filling curves over grids of any size, in two and three dimensions.

A curve numbers the cells of a square (cube) whose side is a power of two; a grid of any other size
takes the smallest one that holds it and leaves out the cells outside.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from .orders import both_ways, check_grid
from .registry import Device, Grid, is_traced, register_scan

CODE_BITS = 63  # of a non-negative int64


def hilbert_code(coordinates: Tensor, bits: int) -> Tensor:
    """Place of cells on Hilbert's curve: integers (..., 2 or 3) to int64 (...).

    Args:
        coordinates: from 0 to 2^bits - 1; not checked, so that a GPU need not be waited for.
        bits: levels of the curve. Its first steps turn with every level, so cells compare only
            under the same `bits`.

    Raises:
        ValueError: coordinates are not integers of two or three axes, or the code exceeds 63 bits.

    Source: J. Skilling, Programming the Hilbert curve, AIP Conference Proceedings 707 (2004), as
    an automaton that reads two levels at once: a few small kernels where the bits cost hundreds.
    """
    cells = z_order_code(coordinates, bits)
    axes = coordinates.shape[-1]
    steps = _hilbert_pairs(axes, like=cells)
    width = 2 * axes  # bits of two levels
    pair = (1 << width) - 1
    state = torch.full_like(cells, _hilbert_start(axes, bits) << width)
    code = torch.zeros_like(cells)
    for level in reversed(range(0, bits, 2)):
        step = steps[state | (cells >> axes * level & pair)]
        state = step & ~pair
        code = (code << width) | (step & pair)
    return code


def _make_hilbert_automaton(axes: int) -> list[tuple[int, int]]:
    """One level of the curve: (next state, digit) at ``state << axes | cell``; 0 is the first.

    A state says which axis stands at each place of Skilling's algorithm and whether it is
    reflected; and whether an odd number of its digits so far were odd, which turns the Gray code.
    """
    states = [(tuple((axis, 0) for axis in range(axes)), 0)]
    steps = []
    for places, turned in states:  # which grow meanwhile
        for cell in range(1 << axes):
            finer, digit, parity = list(places), 0, 0
            for place, (axis, reflected) in enumerate(places):
                bit = (cell >> axes - 1 - axis & 1) ^ reflected
                if bit:
                    finer[0] = (finer[0][0], 1 - finer[0][1])
                else:
                    finer[0], finer[place] = finer[place], finer[0]
                parity ^= bit
                digit = (digit << 1) | (parity ^ turned)
            following = (tuple(finer), turned ^ parity)
            if following not in states:
                states.append(following)
            steps.append((states.index(following), digit))
    return steps


_hilbert_automata = {axes: _make_hilbert_automaton(axes) for axes in (2, 3)}


@torch.compiler.assume_constant_result  # nothing to trace
def _hilbert_automaton(axes: int) -> list[tuple[int, int]]:
    return _hilbert_automata[axes]


@torch.compiler.assume_constant_result
def _hilbert_start(axes: int, bits: int) -> int:
    """The state before the first level; before an empty one if there is an odd number of them."""
    state = 0
    for _ in range((axes - 1) * (bits % 2)):  # empty levels turn through all axes
        state, _ = _hilbert_automaton(axes)[state << axes]
    return state


def _hilbert_pairs(axes: int, like: Tensor) -> Tensor:
    """Two levels at once: ``state << 2 axes | cells`` to the same of next state and digits."""
    if is_traced(like):
        return _make_hilbert_pairs(axes, like.device)
    return _cached_hilbert_pairs(axes, like.device)


def _make_hilbert_pairs(axes: int, device: torch.device) -> Tensor:
    states, digits = torch.tensor(_hilbert_automaton(axes), device=device).unbind(-1)
    states, digits = states.view(-1, 1 << axes), digits.view(-1, 1 << axes)
    pairs = (digits[..., None] << axes) | digits[states]
    return ((states[states] << 2 * axes) | pairs).flatten()


@lru_cache
def _cached_hilbert_pairs(axes: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return _make_hilbert_pairs(axes, device)


def z_order_code(coordinates: Tensor, bits: int) -> Tensor:
    """Morton code of cells, bits interleaved with the first axis highest; as `hilbert_code`."""
    if coordinates.is_floating_point() or coordinates.shape[-1:] not in ((2,), (3,)):
        raise ValueError(
            "coordinates: expected integers of shape (..., 2) or (..., 3), "
            f"got {coordinates.dtype} {tuple(coordinates.shape)}"
        )
    axes = coordinates.shape[-1]
    if not 1 <= bits <= CODE_BITS // axes:
        raise ValueError(f"bits: expected 1 to {CODE_BITS // axes}, got {bits}")
    spread = coordinates.long()
    for width in (16, 8, 4, 2, 1):  # halves of every run of bits, until each bit is alone
        if width < bits:
            run = (1 << width) - 1
            runs = sum(run << place for place in range(0, CODE_BITS, axes * width))
            runs &= (1 << CODE_BITS) - 1
            spread = (spread | (spread << (axes - 1) * width)) & runs
    code, *others = spread.unbind(-1)
    for axis in others:
        code = (code << 1) | axis
    return code


def _u_code(coordinates: Tensor, bits: int) -> Tensor:
    x, y = coordinates.unbind(-1)
    return z_order_code(torch.stack([x, x ^ y], dim=-1), bits)


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
