"""ES2D: EfficientVMamba's token mixer, a selective scan that leaves tokens out."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor

from visionssm.ops import selective_scan
from visionssm.scans import Scan, cross_scan

from .ss2d import SS2D, Routes

torch.fx.wrap("selective_scan")  # a single call to a symbolic trace that enters by SS2D's forward


def _routes_of_phases(grid: tuple[int, int], device: Any = None) -> Tensor:
    """Phases by rows and by columns in turns, as `visionssm.scans.atrous` walks them."""
    return cross_scan(grid, device)[:2].repeat(2, 1)


PHASES = Scan("phases", _routes_of_phases, num_routes=4)


class ES2D(SS2D):
    """Efficient two-dimensional scan of a channels-last map (b, h, w, dim) -> (b, h, w, dim).

    It computes what `SS2D` computes with ``scan="atrous"``, from the same parameters. Each token is
    on one route of four, which says whether its row and its column are even, so it is projected for
    that route alone: the map is cut into its four phases, each a quarter of the tokens, and these
    are scanned::

        x_k = phase k of x;  y_k = scan_k(x_k);  y = the phases back in their places

    A map of odd height or width grows at the bottom or to the right by zeros, in which time passes
    as in any token.

    Args:
        dim: channels of input and output.
        options: arguments of `SS2D` but for its scan.

    Raises:
        ValueError: an argument is out of its range; the message names it.

    Source: efficient 2D scanning, EfficientVMamba, arXiv 2403.09977, section 3.2.
    """

    def __init__(self, dim: int, **options: Any):
        super().__init__(dim, scan="atrous", **options)
        self.routes = Routes(PHASES)

    def scan_map(self, x: Tensor) -> Tensor:
        """Scan the phases of a map (b, h, w, d_inner), each along its route."""
        b, h, w, d = x.shape
        rows, columns = (h + 1) // 2, (w + 1) // 2
        x = F.pad(x, (0, 0, 0, 2 * columns - w, 0, 2 * rows - h))
        x = x.reshape(b, rows, 2, columns, 2, d).permute(0, 4, 2, 1, 3, 5)
        x = x.reshape(b, 4, rows * columns, d)
        delta, B, C = self.project(x)
        A, D, bias = self.recurrence()
        routes = self.routes(rows, columns, x)
        y = cast(Tensor, selective_scan(x, delta, A, B, C, D, bias, routes=routes, complete=True))
        y = y.reshape(b, 2, 2, rows, columns, d).permute(0, 3, 2, 4, 1, 5)
        y = y.reshape(b, 2 * rows, 2 * columns, d)
        return F.pad(y, (0, 0, 0, w - 2 * columns, 0, h - 2 * rows))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Phases (b, k, l', d) to delta (b, k, l', d), B and C (b, k, l', n)."""
        x = torch.einsum("bkld,kcd->bklc", x, self.x_proj_weight)
        dt, B, C = x.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return torch.einsum("bklr,kdr->bkld", dt, self.dt_projs_weight), B, C
