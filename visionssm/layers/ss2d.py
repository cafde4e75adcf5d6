"""SS2D: VMamba's token mixer, a selective scan of the image along several routes."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from timm.models import register_notrace_function, register_notrace_module
from torch import Tensor, nn

from visionssm.ops import selective_scan
from visionssm.scans import Scan, get_scan, scan_routes

from .depthwise import DepthwiseConv2d
from .precision import at_least_float32
from .projections import project_slices, project_step_sizes
from .scan_init import init_decay_rates_, init_step_sizes_
from .sizes import check_state_size, step_size_rank
from .typing import Layer

# What looks at sizes and devices is a single call to a symbolic trace.
register_notrace_function(selective_scan)

INITS = ("v0", "v1", "v2")


@register_notrace_module  # a trace could not write a `Scan` down
class Routes(nn.Module):
    """Routes of a scan over a grid, on the device of a tensor: int32 (k, s)."""

    def __init__(self, scan: Scan):
        super().__init__()
        self.scan = scan

    def forward(self, height: int, width: int, like: Tensor) -> Tensor:
        return scan_routes(self.scan, height, width, like)

    def extra_repr(self) -> str:
        return self.scan.name


class SS2D(nn.Module):
    """Two-dimensional selective scan (b, h, w, dim) -> (b, h, w, dim).

    Every route has its own projections and decay. They are computed token by token, before any
    reordering, in one matrix product for all routes; the scan reads the tokens in route order and
    adds the routes up at each token::

        x, z = in_proj(x);  x = act(conv2d(x))
        y = sum over k of scan_k(x);  out = out_proj(out_act(out_norm(y)) * gate_act(z))

    Where routes share the channels, each reads and writes a slice of them (`Scan.num_slices`).

    Parameters carry the names and shapes of the official code (k routes, d = int(ssm_ratio dim)
    channels over the number of slices, n state, r dt_rank, dt rows before B and C), so that its
    weights load as they are. Weights fit every scan with as many routes and slices.

    Args:
        dim: channels of input and output.
        d_state: state size n, 1 to 64.
        ssm_ratio: inner channels over dim.
        dt_rank: rank of the step-size projection; "auto" is ceil(dim / slices / 16).
        kernel_size: of the depthwise convolution, odd; 1 leaves it out.
        conv_bias: whether that convolution has a bias.
        gate: multiply the output with a branch z of the input.
        gate_act: whether the gate passes through `act_layer`.
        out_act_layer: activation after `out_norm`; None leaves it out.
        drop: dropout rate of the output.
        scan: scan order, or its name (see `visionssm.scans`).
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
        scan: str | Scan = "cross_scan",
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
        self.scan = get_scan(scan)
        k, slices = self.scan.num_routes, self.scan.num_slices
        if d_inner % slices:
            raise ValueError(
                f"scan: {self.scan.name!r} cuts the channels into {slices} slices, got {d_inner} "
                f"inner channels of dim {dim}"
            )
        d = d_inner // slices
        self.routes = Routes(self.scan)
        self.d_state = check_state_size(d_state)
        self.dt_rank = step_size_rank(dt_rank, math.ceil(dim / slices))
        self.gate = gate

        self.in_proj = nn.Linear(dim, d_inner * (2 if gate else 1), bias=False, **dd)
        self.conv2d: nn.Module = nn.Identity()
        if kernel_size > 1:
            activation = "silu" if act_layer is nn.SiLU else None
            self.conv2d = DepthwiseConv2d(d_inner, kernel_size, conv_bias, activation, **dd)
        fused = isinstance(self.conv2d, DepthwiseConv2d) and self.conv2d.activation is not None
        self.act = nn.Identity() if fused else act_layer()
        self.gate_act = act_layer() if gate and gate_act else nn.Identity()
        self.x_proj_weight = nn.Parameter(torch.empty(k, self.dt_rank + 2 * d_state, d, **dd))
        self.dt_projs_weight = nn.Parameter(torch.empty(k, d, self.dt_rank, **dd))
        # Exponents and step sizes keep float32 in a model of lower precision.
        fp32 = {"device": device, "dtype": torch.float32}
        self.dt_projs_bias = nn.Parameter(torch.empty(k, d, **fp32))
        self.A_logs = nn.Parameter(torch.empty(k * d, d_state, **fp32))
        self.Ds = nn.Parameter(torch.empty(k * d, **fp32))
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
        x, z = self.expand(x)
        return self.contract(self.scan_map(x), z)

    def expand(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map (b, h, w, dim) to what is scanned and, if there is one, the gate: (b, h, w, d)."""
        x, z = self.in_proj(x), None
        if self.gate:
            x, z = x.chunk(2, dim=-1)
            z = self.gate_act(z)
        return self.act(self.conv2d(x)), z

    def contract(self, y: Tensor, z: Tensor | None) -> Tensor:
        """Scanned map and gate (b, h, w, d) to the mixer's output (b, h, w, dim)."""
        y = self.out_act(self.out_norm(y))
        if z is not None:
            y = y * z
        return self.drop(self.out_proj(y))

    def scan_map(self, x: Tensor) -> Tensor:
        """Scan a map (b, h, w, d_inner) along every route; add the routes up at each token."""
        _, h, w, _ = x.shape
        routes = self.routes(h, w, x)
        x = x.flatten(1, 2)
        delta, B, C = self.project(x)
        A, D, bias = self.recurrence()
        u = x.unflatten(-1, (self.scan.num_slices, -1)).transpose(1, 2)
        y = selective_scan(
            u, delta, A, B, C, D, bias,
            routes=routes, reduce="shared", complete=self.scan.permutes(routes, h * w),
        )  # fmt: skip
        return cast(Tensor, y).transpose(1, 2).flatten(2).unflatten(1, (h, w))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (b, l, d_inner) to delta (b, k, l, d), B and C (b, k, l, n), in token order."""
        x = project_slices(x.unflatten(-1, (self.scan.num_slices, -1)), self.x_proj_weight)
        _, B, C = x.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = project_step_sizes(x, self.dt_projs_weight)
        return delta, B.transpose(1, 2), C.transpose(1, 2)

    def recurrence(self) -> tuple[Tensor, Tensor, Tensor]:
        """Decay rates A (k, d, n), skip weights D (k, d) and step-size biases (k, d)."""
        k = self.scan.num_routes
        return (
            -torch.exp(at_least_float32(self.A_logs)).unflatten(0, (k, -1)),
            at_least_float32(self.Ds).unflatten(0, (k, -1)),
            at_least_float32(self.dt_projs_bias),
        )

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        expected, found = self.dt_projs_bias, state_dict.get(prefix + "dt_projs_bias")
        if isinstance(found, Tensor) and found.shape != expected.shape:
            error_msgs.append(
                f"{prefix}scan: {self.scan.name!r} has (routes, channels of each) = "
                f"{tuple(expected.shape)}, these weights have {tuple(found.shape)}"
            )
