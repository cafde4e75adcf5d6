"""PointScan: Point Cloud Mamba's token mixer, a selective scan of points along a route."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.scans import POINT_ORDERS, inverse, reversed_routes

from .bidirectional_mamba import BidirectionalMamba


class PointScan(nn.Module):
    """Selective scan of points along a route, from both ends (b, points, dim) -> (b, points, dim).

    Coordinates are projected and added to the points. The points are put in the order of the route,
    between two copies of learned tokens that tell the order, its prompts; then they are mixed by a
    `BidirectionalMamba`, and put back into their places::

        x = x + position(coordinates);  x = (prompts, x along the route, prompts)
        y = mixer(x) without the prompts, at the places of the points

    Prompts are saved under the name of their order, so weights of another order do not load.

    Args:
        dim: channels of input and output.
        order: the order of the routes, one of `visionssm.scans.POINT_ORDERS`.
        num_prompts: prompts at either end.
        d_state: state size n.
        expand: inner channels over dim.
        kernel_size: taps of the depthwise convolutions along the route.
        average: halve the sum of the two directions.

    Raises:
        ValueError: an argument is out of its range; the message names it.

    Source: Point Cloud Mamba, arXiv 2403.00762, section 3.3. There, prompts are projected from one
    embedding for all layers.
    """

    def __init__(
        self,
        dim: int,
        order: str,
        num_prompts: int = 6,
        d_state: int = 16,
        expand: int = 2,
        kernel_size: int = 4,
        average: bool = True,
        device=None,
        dtype=None,
    ):
        if order not in POINT_ORDERS:
            raise ValueError(f"order: expected one of {POINT_ORDERS}, got {order!r}")
        if num_prompts < 0:
            raise ValueError(f"num_prompts: expected at least 0, got {num_prompts}")
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.order = order
        self.mixer = BidirectionalMamba(dim, d_state, expand, kernel_size, average, **dd)
        self.position = nn.Linear(3, dim, bias=False, **dd)
        self.prompts = nn.ParameterDict({order: torch.empty(num_prompts, dim, **dd)})
        # As of a normal embedding behind a linear layer with its default initialisation.
        nn.init.normal_(self.prompts[order], std=3**-0.5)

    def forward(self, x: Tensor, coordinates: Tensor, route: Tensor) -> Tensor:
        """Mix the points of each cloud.

        Args:
            x: features (b, points, dim).
            coordinates: (b, points, 3).
            route: (b, points), integers, a route of this layer's order as `serialize_points` gives;
                points that it does not visit are padding. Its steps of -1 come last.

        Returns:
            (b, points, dim), zero at padding.

        Raises:
            ValueError: coordinates or route have another shape.
        """
        b, points, _ = x.shape
        for name, tensor, shape in (
            ("coordinates", coordinates, (b, points, 3)),
            ("route", route, (b, points)),
        ):
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name}: expected {shape}, got {tuple(tensor.shape)}")
        x = x + self.position(coordinates.to(self.position.weight.dtype))
        x, steps = self.line_up(x, route)
        y = self.scan_line(x, steps)
        return self.put_back(y, route)

    def line_up(self, x: Tensor, route: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts, points along the route, prompts, zeros: (b, s, dim), and which are not zeros."""
        b, points, dim = x.shape
        prompts = self.prompts[self.order].to(x.dtype)
        p = len(prompts)
        rows = torch.cat([x, prompts.expand(b, p, dim), x.new_zeros(b, 1, dim)], dim=1)
        step = torch.arange(points + 2 * p, device=x.device)
        behind = step - p - (route >= 0).sum(1, keepdim=True)  # steps after the last point
        prompt = torch.where(behind < 0, step, behind)
        row = points + prompt.where((prompt < p) & (behind < p), p)
        along = F.pad(route, (p, p), value=-1).long()
        row = along.where(along >= 0, row)
        return rows.gather(1, row[..., None].expand(-1, -1, dim)), behind < p

    def scan_line(self, x: Tensor, steps: Tensor) -> Tensor:
        """Mix a line of tokens (b, s, dim) whose last ones, where `steps` (b, s) ends, are zero."""
        mixer = self.mixer
        x, z = mixer.in_proj(x).chunk(2, dim=-1)
        x = mixer.convolve(x)
        delta, B, C = mixer.project(x)
        forward = torch.arange(steps.shape[1], dtype=torch.int32, device=x.device)
        forward = forward.where(steps, -1)
        routes = torch.stack([forward, reversed_routes(forward)], dim=1)
        return mixer.gate(mixer.scan(x, delta, B, C, routes=routes), z)

    def put_back(self, y: Tensor, route: Tensor) -> Tensor:
        """Points of a line (b, s, dim) at their places, zero where the route does not come."""
        step = inverse(route)[..., None]
        place = step.long().clamp(min=0) + len(self.prompts[self.order])
        return y.gather(1, place.expand(-1, -1, y.shape[-1])).where(step >= 0, 0)
