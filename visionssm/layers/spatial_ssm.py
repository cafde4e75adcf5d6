"""SpatialSSM: Spatial-Mamba's token mixer, one scan whose states are fused with neighbours."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_notrace_function
from torch import Tensor, nn

from visionssm.ops import selective_scan, state_fusion

from .depthwise import DepthwiseConv2d
from .precision import at_least_float32
from .scan_init import init_step_sizes_
from .typing import Layer

# Both look at sizes and devices, so a symbolic trace keeps them as single calls.
register_notrace_function(selective_scan)
register_notrace_function(state_fusion)

DT_INITS = ("random", "simple", "zero")


class StateFusion(nn.Module):
    """Learned fusion of a map of states with its neighbours (b, h, w, dim) -> (b, h, w, dim).

    Three depthwise 3 x 3 kernels of dilation 1, 3 and 5 and a scale for each, under their official
    names and shapes. The weight that the op takes is made of them at every call.
    """

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.kernel_3 = nn.Parameter(torch.ones(dim, 1, 3, 3, **dd))
        self.kernel_3_1 = nn.Parameter(torch.ones(dim, 1, 3, 3, **dd))
        self.kernel_3_2 = nn.Parameter(torch.ones(dim, 1, 3, 3, **dd))
        self.alpha = nn.Parameter(torch.ones(3, **dd))

    def forward(self, x: Tensor) -> Tensor:
        kernels = torch.stack([self.kernel_3, self.kernel_3_1, self.kernel_3_2]).squeeze(2)
        weight = self.alpha.view(3, 1, 1, 1) * kernels
        return state_fusion(x, weight.permute(0, 2, 3, 1))


class SpatialSSM(nn.Module):
    """Structure-aware state-space mixer (b, h, w, dim) -> (b, h, w, dim).

    One selective scan over the rows gives a state (of size 1) at every pixel; the states are fused
    with their neighbours, and only then read out::

        x, z = in_proj(x);  x = silu(conv2d(x));  h = states of scan(x)
        y = state_fusion(h) C + D x;  out = out_proj(out_norm(y) * silu(z))

    Parameters carry the names and shapes of the official code (d = expand dim channels, step-size
    rank r = ceil(dim / 16), dt rows before B and C), so that its weights load as they are.

    Args:
        dim: channels of input and output.
        expand: inner channels over dim.
        dt_init: "random" as Mamba (step sizes log-uniform in [1e-3, 1e-1]), "simple" normal noise,
            "zero" uniform noise.
        norm_layer: normalisation of the scan's output.

    Raises:
        ValueError: dt_init is another one.

    Source: Spatial-Mamba, arXiv 2410.15091, section 4.
    """

    def __init__(
        self,
        dim: int,
        expand: int = 2,
        dt_init: str = "random",
        norm_layer: Layer = nn.LayerNorm,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if dt_init not in DT_INITS:
            raise ValueError(f"dt_init: expected one of {DT_INITS}, got {dt_init!r}")
        dd = {"device": device, "dtype": dtype}
        d = expand * dim
        self.dt_rank = math.ceil(dim / 16)
        self.dt_init = dt_init
        self.in_proj = nn.Linear(dim, 2 * d, bias=False, **dd)
        self.conv2d = DepthwiseConv2d(d, activation="silu", **dd)
        self.act = nn.SiLU()
        self.x_proj_weight = nn.Parameter(torch.empty(self.dt_rank + 2, d, **dd))
        self.dt_projs_weight = nn.Parameter(torch.empty(d, self.dt_rank, **dd))
        # Exponents and step sizes keep float32 in a model of lower precision.
        fp32 = {"device": device, "dtype": torch.float32}
        self.dt_projs_bias = nn.Parameter(torch.empty(d, **fp32))
        self.A_logs = nn.Parameter(torch.empty(d, 1, **fp32))
        self.Ds = nn.Parameter(torch.empty(d, **fp32))
        self.state_fusion = StateFusion(d, **dd)
        self.out_norm = norm_layer(d, **dd)
        self.out_proj = nn.Linear(d, dim, bias=False, **dd)
        self.reset_scan_parameters()

    @torch.no_grad()
    def reset_scan_parameters(self) -> None:
        """Initialise what the scan owns, as the official code does; all decay rates are 1."""
        nn.init.kaiming_uniform_(self.x_proj_weight, a=math.sqrt(5))
        nn.init.zeros_(self.A_logs)
        nn.init.ones_(self.Ds)
        if self.dt_init == "random":
            bound = self.dt_rank**-0.5
            nn.init.uniform_(self.dt_projs_weight, -bound, bound)
            init_step_sizes_(self.dt_projs_bias)
        elif self.dt_init == "simple":
            nn.init.normal_(self.dt_projs_weight, std=0.1)
            nn.init.normal_(self.dt_projs_bias, std=0.1)
        else:
            nn.init.uniform_(self.dt_projs_weight, 0, 0.1)
            nn.init.uniform_(self.dt_projs_bias, 0, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map (b, h, w, dim)."""
        _, h, w, _ = x.shape
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x = self.conv2d(x).flatten(1, 2)
        states, C = self.scan_states(x)
        states = self.state_fusion(states.unflatten(1, (h, w))).flatten(1, 2)
        y = torch.addcmul(states * C, self.Ds.to(x.dtype), x)
        y = self.out_norm(y).unflatten(1, (h, w)) * self.act(z)
        return self.out_proj(y)

    def scan_states(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (b, l, d) to their states (b, l, d), and what reads those out, C (b, l, 1)."""
        dt, B, C = F.linear(x, self.x_proj_weight).split([self.dt_rank, 1, 1], dim=-1)
        B = B.unsqueeze(1)
        states: Any = selective_scan(
            x.unsqueeze(1),
            F.linear(dt, self.dt_projs_weight).unsqueeze(1),
            -torch.exp(at_least_float32(self.A_logs)).unsqueeze(0),
            B,
            B.new_ones(()).expand(B.shape),  # the state itself is the output
            delta_bias=at_least_float32(self.dt_projs_bias).unsqueeze(0),
            reduce="sum",
        )
        return states, C
