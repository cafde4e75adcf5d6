"""Selective scans along the routes of every strategy, beside raster order in as many steps."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm.scans import get_scan, raster

from .ops import ScanProblem, our_tasks
from .registry import RASTER_ORDER, RouteCase, ScanCase
from .task import Task


def route_tasks(case: RouteCase, device: torch.device) -> Iterator[Task]:
    """Forward and backward in raster order, then of each scan, to be compared with it."""
    yield from our_tasks(route_problem(case, None, device), RASTER_ORDER)
    for scan in case.scans:
        problem = route_problem(case, scan, device)
        yield from our_tasks(problem, scan, case.goals, relative_to=RASTER_ORDER)


def route_problem(case: RouteCase, scan: str | None, device: torch.device) -> ScanProblem:
    """A selective scan along the routes of one of the case's scans; None takes `raster_routes`."""
    tokens, grid = case.side**2, (case.side, case.side)
    return ScanProblem(
        ScanCase(case.label, case.batch, case.routes, case.channels, tokens, 1, dtype=case.dtype),
        device,
        partial(raster_routes, case) if scan is None else partial(get_scan(scan).function, grid),
        complete=case.covers and case.steps == tokens,
    )


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
