"""Multi-head scan: channel slices scanned along routes of their own, fused by their spread."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.ops import selective_scan
from visionssm.scans import Scan, get_scan, scan_routes

from .depthwise import DepthwiseConv2d
from .precision import at_least_float32
from .projections import project_slices, project_step_sizes
from .scan_init import init_decay_rates_, init_step_sizes_
from .sizes import check_state_size, step_size_rank

EPSILON = 1e-5  # of the mean spread, as in the released code


def scan_route_attention(y: Tensor, dim: int, threshold: float = 0.0) -> Tensor:
    """Add up route outputs, weighted at each token and channel by how much they differ.

    With y_1..y_k along `dim`, one number of every other index a time::

        cv = std(y) / (mean(y - min(y)) + 1e-5)        std with k - 1 in its denominator
        out = relu(cv - threshold) * sum(y)

    Args:
        y: outputs of k >= 2 routes, in any shape.
        dim: the axis of the routes.
        threshold: of cv, from which on a token passes. Of four routes cv lies between 2/3 and 2,
            unless they agree to about 1e-5; where all are equal, the output and its gradient are 0
            for every threshold >= 0.

    Returns:
        The shape of y without `dim`, in y's dtype; computed in float32 or wider.

    Raises:
        ValueError: there are fewer than two routes.

    Source: Scan Route Attention, MHS-VM, arXiv 2406.05992, section 3.3.
    """
    if y.shape[dim] < 2:
        raise ValueError(f"y: expected at least two routes along axis {dim}, got {tuple(y.shape)}")
    wide = at_least_float32(y)
    spread = (wide - wide.amin(dim, keepdim=True)).mean(dim)
    weight = F.relu(wide.std(dim) / (spread + EPSILON) - threshold)
    return (weight * wide.sum(dim)).to(y.dtype)


class MultiHeadScan(nn.Module):
    """Multi-head scan of a channels-last map (b, h, w, dim) -> (b, h, w, dim).

    Each head owns a slice of the projected channels and scans it along its own routes, every route
    with its own projections and decay; `scan_route_attention` fuses the routes of a head::

        x_1, .., x_heads = in_proj(x)
        y_p = attention over the routes k of head p of scan_k(x_p)
        out = out_proj(norm(concatenation of y_p))

    Parameters have the names and layouts of `SS2D`, routes of the first head first.

    Args:
        dim: channels of input and output; heads of floor(dim / heads) channels each.
        d_state: state size n, 1 to 64.
        dt_rank: rank of the step-size projection; "auto" is ceil(channels of a head / 16).
        threshold: of the attention.
        project: end with norm and projection; without, the output has heads x slice channels.
        scan: strategy whose `num_slices` are the heads (see `visionssm.scans`).

    Raises:
        ValueError: d_state or dt_rank is out of its range, dim has no channel for every head, or
            the scan has routes that leave tokens out or fewer than two routes a head.

    Source: MHS-VM, arXiv 2406.05992, section 3.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        dt_rank: int | str = "auto",
        threshold: float = 0.0,
        project: bool = True,
        scan: str | Scan = "multi_head",
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.scan = get_scan(scan)
        heads, k = self.scan.num_slices, self.scan.num_routes
        if not self.scan.covers or k // heads < 2:
            raise ValueError(
                "scan: expected routes that visit every token, at least two a head, "
                f"got {self.scan.name!r}"
            )
        if dim < heads:
            raise ValueError(f"dim: expected a channel for each of {heads} heads, got {dim}")
        d = dim // heads
        self.heads = heads
        self.out_features = dim if project else heads * d
        self.d_state = check_state_size(d_state)
        self.dt_rank = step_size_rank(dt_rank, d)
        self.threshold = threshold

        self.in_proj = nn.Linear(dim, heads * d, bias=False, **dd)
        self.x_proj_weight = nn.Parameter(torch.empty(k, self.dt_rank + 2 * d_state, d, **dd))
        self.dt_projs_weight = nn.Parameter(torch.empty(k, d, self.dt_rank, **dd))
        # Exponents and step sizes keep float32 in a model of lower precision.
        fp32 = {"device": device, "dtype": torch.float32}
        self.dt_projs_bias = nn.Parameter(torch.empty(k, d, **fp32))
        self.A_logs = nn.Parameter(torch.empty(k * d, d_state, **fp32))
        self.Ds = nn.Parameter(torch.empty(k * d, **fp32))
        self.norm: nn.Module = nn.Identity()
        self.out_proj: nn.Module = nn.Identity()
        if project:
            self.norm = nn.LayerNorm(heads * d, **dd)
            self.out_proj = nn.Linear(heads * d, dim, bias=False, **dd)
        self.reset_scan_parameters()

    @torch.no_grad()
    def reset_scan_parameters(self) -> None:
        """Initialise what the scan owns as Mamba does; linear layers and the norm stay."""
        nn.init.kaiming_uniform_(self.x_proj_weight.flatten(0, 1), a=math.sqrt(5))
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_projs_weight, -bound, bound)
        init_step_sizes_(self.dt_projs_bias)
        init_decay_rates_(self.A_logs)
        nn.init.ones_(self.Ds)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map (b, h, w, dim)."""
        _, h, w, _ = x.shape
        x = self.in_proj(x).flatten(1, 2).unflatten(-1, (self.heads, -1))  # (b, l, heads, d)
        routes = scan_routes(self.scan, h, w, x)
        k = self.scan.num_routes
        delta, B, C = self.project(x)
        y = selective_scan(
            x.transpose(1, 2),
            delta,
            -torch.exp(at_least_float32(self.A_logs)).unflatten(0, (k, -1)),
            B,
            C,
            at_least_float32(self.Ds).unflatten(0, (k, -1)),
            at_least_float32(self.dt_projs_bias),
            routes=routes,
            complete=self.scan.permutes(routes, h * w),
        )
        y = cast(Tensor, y).unflatten(1, (self.heads, -1))
        y = scan_route_attention(y, 2, self.threshold)
        y = y.transpose(1, 2).flatten(2)
        return self.out_proj(self.norm(y)).unflatten(1, (h, w))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Slices (b, l, heads, d) to delta (b, k, l, d), B and C (b, k, l, n), in token order."""
        x = project_slices(x, self.x_proj_weight)
        _, B, C = x.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = project_step_sizes(x, self.dt_projs_weight)
        return delta, B.transpose(1, 2), C.transpose(1, 2)


class GatedMultiHeadScan(nn.Module):
    """MHS-VM's gated mixer of a channels-last map (b, h, w, dim) -> (b, h, w, dim).

    ::

        x, z = in_proj(x);  x = silu(conv2d(x));  out = norm(scan(x)) * silu(z)

    Args:
        dim: channels of input and output.
        kernel_size: of the depthwise convolution, odd.
        options: arguments of the `MultiHeadScan` in it.

    Raises:
        ValueError: kernel_size is even, an option does not fit, or the heads leave channels out and
            ``project=False`` does not bring them back.

    Source: MHS-VM, arXiv 2406.05992, section 3.
    """

    def __init__(self, dim: int, kernel_size: int = 3, device=None, dtype=None, **options):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if kernel_size % 2 == 0 or kernel_size < 1:
            raise ValueError(f"kernel_size: expected an odd positive integer, got {kernel_size}")
        self.in_proj = nn.Linear(dim, 2 * dim, bias=False, **dd)
        self.conv2d = DepthwiseConv2d(dim, kernel_size, activation="silu", **dd)
        self.scan = MultiHeadScan(dim, **options, **dd)
        if self.scan.out_features != dim:
            raise ValueError(
                f"project: expected True, {self.scan.heads} heads give back "
                f"{self.scan.out_features} of {dim} channels"
            )
        self.norm = nn.LayerNorm(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map (b, h, w, dim)."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        return self.norm(self.scan(self.conv2d(x))) * F.silu(z)
