"""SS2D: VMamba's token mixer, a selective scan of the image along several routes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.models import register_notrace_function
from torch import Tensor, nn

from visionssm.ops import selective_scan
from visionssm.scans import get_scan, scan_routes

from .scan_init import init_decay_rates_, init_step_sizes_
from .typing import Layer

# Both look at sizes and devices, so a symbolic trace keeps them as single calls.
register_notrace_function(selective_scan)
register_notrace_function(scan_routes)

INITS = ("v0", "v1", "v2")


class SS2D(nn.Module):
    """Two-dimensional selective scan (b, h, w, dim) -> (b, h, w, dim).

    Every route has its own projections and decay. They are computed token by token, before any
    reordering, in one matrix product for all routes; the scan reads the tokens in route order and
    adds the routes up at each token::

        x, z = in_proj(x);  x = act(conv2d(x))
        y = sum over k of scan_k(x);  out = out_proj(out_act(out_norm(y)) * gate_act(z))

    Parameters carry the names and shapes of the official code (k routes, d = int(ssm_ratio dim)
    channels, n state, r dt_rank, dt rows before B and C), so that its weights load as they are.

    Args:
        dim: channels of input and output.
        d_state: state size n.
        ssm_ratio: inner channels over dim.
        dt_rank: rank of the step-size projection; "auto" is ceil(dim / 16).
        kernel_size: of the depthwise convolution, odd; 1 leaves it out.
        conv_bias: whether that convolution has a bias.
        gate: multiply the output with a branch z of the input.
        gate_act: whether the gate passes through `act_layer`.
        out_act_layer: activation after `out_norm`; None leaves it out.
        drop: dropout rate of the output.
        scan: name of the scan order (see `visionssm.scans`).
        init: "v0" as Mamba (step sizes log-uniform in [1e-3, 1e-1], decay rates 1..n), "v1" normal
            noise, "v2" uniform noise and all decay rates 1.

    Raises:
        ValueError: an argument is out of its range; the message names it.

    Source: VMamba, arXiv 2401.10166, section 4.2.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        ssm_ratio: float = 2.0,
        dt_rank: int | str = "auto",
        kernel_size: int = 3,
        conv_bias: bool = True,
        gate: bool = True,
        gate_act: bool = True,
        act_layer: Layer = nn.SiLU,
        out_act_layer: Layer | None = None,
        norm_layer: Layer = nn.LayerNorm,
        drop: float = 0.0,
        scan: str = "cross_scan",
        init: str = "v0",
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if kernel_size % 2 == 0 or kernel_size < 1:
            raise ValueError(f"kernel_size: expected an odd positive integer, got {kernel_size}")
        if init not in INITS:
            raise ValueError(f"init: expected one of {INITS}, got {init!r}")
        d_inner = int(ssm_ratio * dim)
        if d_inner < 1:
            raise ValueError(f"ssm_ratio: expected at least one inner channel, got {ssm_ratio}")
        self.scan = scan
        self.complete = get_scan(scan).complete
        self.num_routes = get_scan(scan).num_routes
        self.d_state = d_state
        self.dt_rank = math.ceil(dim / 16) if dt_rank == "auto" else int(dt_rank)
        self.gate = gate
        k = self.num_routes

        self.in_proj = nn.Linear(dim, d_inner * (2 if gate else 1), bias=False, **dd)
        self.conv2d: nn.Module = nn.Identity()
        if kernel_size > 1:
            self.conv2d = nn.Conv2d(
                d_inner, d_inner, kernel_size, padding=kernel_size // 2, groups=d_inner,
                bias=conv_bias, **dd,
            )  # fmt: skip
        self.act = act_layer()
        self.gate_act = act_layer() if gate and gate_act else nn.Identity()
        self.x_proj_weight = nn.Parameter(torch.empty(k, self.dt_rank + 2 * d_state, d_inner, **dd))
        self.dt_projs_weight = nn.Parameter(torch.empty(k, d_inner, self.dt_rank, **dd))
        # Exponents and step sizes keep float32 in a model of lower precision.
        fp32 = {"device": device, "dtype": torch.float32}
        self.dt_projs_bias = nn.Parameter(torch.empty(k, d_inner, **fp32))
        self.A_logs = nn.Parameter(torch.empty(k * d_inner, d_state, **fp32))
        self.Ds = nn.Parameter(torch.empty(k * d_inner, **fp32))
        self.out_norm = norm_layer(d_inner, **dd)
        self.out_act = out_act_layer() if out_act_layer is not None else nn.Identity()
        self.out_proj = nn.Linear(d_inner, dim, bias=False, **dd)
        self.drop = nn.Dropout(drop)
        self.init = init
        self.reset_scan_parameters()

    @torch.no_grad()
    def reset_scan_parameters(self) -> None:
        """Initialise what the scan owns, as `init` says; linear layers and the convolution stay."""
        nn.init.kaiming_uniform_(self.x_proj_weight.flatten(0, 1), a=math.sqrt(5))
        nn.init.ones_(self.Ds)
        if self.init == "v0":
            bound = self.dt_rank**-0.5
            nn.init.uniform_(self.dt_projs_weight, -bound, bound)
            init_step_sizes_(self.dt_projs_bias)
            init_decay_rates_(self.A_logs)
        elif self.init == "v1":
            nn.init.normal_(self.A_logs)
            nn.init.normal_(self.dt_projs_weight, std=0.1)
            nn.init.normal_(self.dt_projs_bias, std=0.1)
        else:
            nn.init.zeros_(self.A_logs)
            nn.init.uniform_(self.dt_projs_weight, 0, 0.1)
            nn.init.uniform_(self.dt_projs_bias, 0, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map (b, h, w, dim)."""
        _, h, w, _ = x.shape
        x = self.in_proj(x)
        z = None
        if self.gate:
            x, z = x.chunk(2, dim=-1)
        x = self.conv2d(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = self.act(x).flatten(1, 2)
        routes = scan_routes(self.scan, h, w, x)
        delta, B, C = self.project(x)
        y = selective_scan(
            x.unsqueeze(1),
            delta,
            -torch.exp(self.A_logs.float()).unflatten(0, (self.num_routes, -1)),
            B,
            C,
            self.Ds.float().unflatten(0, (self.num_routes, -1)),
            self.dt_projs_bias.float(),
            routes=routes,
            reduce="sum",
            complete=self.complete,
        )
        y = self.out_act(self.out_norm(y)).unflatten(1, (h, w))
        if z is not None:
            y = y * self.gate_act(z)
        return self.drop(self.out_proj(y))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (b, l, d) to delta (b, k, l, d), B and C (b, k, l, n), all in token order."""
        x = F.linear(x, self.x_proj_weight.flatten(0, 1)).unflatten(-1, (self.num_routes, -1))
        dt, B, C = x.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = torch.einsum("blkr,kdr->bkld", dt, self.dt_projs_weight)
        return delta, B.transpose(1, 2), C.transpose(1, 2)
