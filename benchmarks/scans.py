"""Selective scans along the routes of every strategy, beside raster order in as many steps.

Alone, and in SS2D as VMamba has it, where the projections and the convolution are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm.scans import get_scan, raster

from .blocks import block_tasks
from .ops import ScanProblem, our_tasks
from .registry import EAGER, RASTER_ORDER, VMAMBA_MIXER, BlockCase, RouteCase, ScanCase
from .task import Task


def route_tasks(case: RouteCase, device: torch.device) -> Iterator[Task]:
    """Forward and backward in raster order, then of each scan, to be compared with it."""
    yield from our_tasks(route_problem(case, None, device), RASTER_ORDER)
    for scan in case.scans:
        problem = route_problem(case, scan, device)
        yield from our_tasks(problem, scan, case.goals, relative_to=RASTER_ORDER)


def mixer_tasks(case: RouteCase, device: torch.device) -> Iterator[Task]:
    """The same of SS2D, which takes these scans."""
    for scan in (None, *case.scans):
        yield from block_tasks(mixer_case(case, scan), device)


def route_problem(case: RouteCase, scan: str | None, device: torch.device) -> ScanProblem:
    """A selective scan along the routes of one of the case's scans; None takes `raster_routes`."""
    tokens, grid = case.side**2, (case.side, case.side)
    return ScanProblem(
        ScanCase(case.label, case.batch, case.routes, case.channels, tokens, 1, dtype=case.dtype),
        device,
        partial(raster_routes, case) if scan is None else partial(get_scan(scan).function, grid),
        complete=case.covers and case.steps == tokens,
    )


def mixer_case(case: RouteCase, scan: str | None) -> BlockCase:
    """SS2D with one of the case's scans; None takes `raster_routes`.

    Eager, so that tables of routes are cached: compiled, a single layer would compute one in each
    call, which the layers of a model share.
    """
    known = get_scan(case.scans[0] if scan is None else scan)
    if scan is None:
        walk = partial(_raster_of_grid, case)
        known = replace(known, name=RASTER_ORDER, function=walk, num_routes=case.routes)
    return BlockCase(
        f"SS2D, {case.label}", case.channels * known.num_slices, case.side, case.batch,
        {**VMAMBA_MIXER, "scan": known}, {} if scan is None else case.goals, modes=(EAGER,),
        dtype=case.dtype, contender=known.name,
        relative_to=None if scan is None else RASTER_ORDER,
    )  # fmt: skip


def _raster_of_grid(case: RouteCase, grid: tuple[int, int], device: torch.device) -> Tensor:
    """`raster_routes` as a scan's function."""
    if grid != (case.side, case.side):
        raise ValueError(f"grid: expected {(case.side, case.side)}, got {grid}")
    return raster_routes(case, device)


def raster_routes(case: RouteCase, device: torch.device) -> Tensor:
    """Raster order in a table of the shape that the case's scans have: int32 (routes, steps).

    Where each of their routes visits all tokens, so does each of these; where their routes share
    the tokens, these are successive parts. Padding comes last.
    """
    tokens = raster((case.side, case.side), device)
    if case.covers:
        return F.pad(tokens, (0, case.steps - tokens.shape[1]), value=-1).repeat(case.routes, 1)
    padding = case.routes * case.steps - tokens.shape[1]
    return F.pad(tokens, (0, padding), value=-1).view(case.routes, case.steps)
