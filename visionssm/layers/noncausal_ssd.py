"""NonCausalSSD: VSSD's token mixer, Mamba-2's without an order among the tokens."""

from __future__ import annotations

import torch
from timm.models import register_notrace_function
from torch import Tensor, nn

from visionssm.ops import ssd_noncausal

from .depthwise import DepthwiseConv2d
from .precision import at_least_float32
from .scan_init import init_step_sizes_
from .typing import Layer

register_notrace_function(ssd_noncausal)  # looks at sizes


class NonCausalSSD(nn.Module):
    """Non-causal state-space mixer (b, h, w, dim) -> (b, h, w, dim).

    One state a head gathers the whole image, and every pixel reads it::

        z, xBC, dt = in_proj(x);  x, B, C = silu(conv2d(xBC))
        y = ssd_noncausal(x, dt, A, B, C, D);  out = out_proj(norm(y) * z)

    Parameters carry the names and shapes of the official code (d = expand dim channels), so that
    its weights load as they are.

    Args:
        dim: channels of input and output.
        num_heads: heads, each with its own step sizes, decay rate and d / num_heads channels.
        d_state: state size.
        expand: inner channels over dim.
        num_groups: groups of heads that share B and C, dealt out in turn.
        positive: whether a token's weight is -dt A, as in all published models, or dt A.
        norm_layer: normalisation of the output before the gate.

    Raises:
        ValueError: num_heads does not divide d, or num_groups does not divide num_heads.

    Source: VSSD, arXiv 2407.18559, section 3.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        d_state: int = 64,
        expand: int = 2,
        num_groups: int = 1,
        positive: bool = True,
        norm_layer: Layer = nn.LayerNorm,
        device=None,
        dtype=None,
    ):
        super().__init__()
        d = expand * dim
        if d % num_heads:
            raise ValueError(f"num_heads: expected a divisor of {d} channels, got {num_heads}")
        if num_heads % num_groups:
            raise ValueError(
                f"num_groups: expected a divisor of {num_heads} heads, got {num_groups}"
            )
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.num_groups = num_groups
        self.positive = positive
        self.convolved = (d, num_groups * d_state, num_groups * d_state)  # x, B, C
        self.projected = (d, sum(self.convolved), num_heads)  # z, xBC, dt
        self.in_proj = nn.Linear(dim, sum(self.projected), bias=False, **dd)
        self.conv2d = DepthwiseConv2d(self.projected[1], activation="silu", **dd)
        # Decay rates and step sizes keep float32 in a model of lower precision.
        fp32 = {"device": device, "dtype": torch.float32}
        self.dt_bias = nn.Parameter(torch.empty(num_heads, **fp32))
        self.A_log = nn.Parameter(torch.empty(num_heads, **fp32))
        self.D = nn.Parameter(torch.empty(num_heads, **fp32))
        self.norm = norm_layer(d, **dd)
        self.out_proj = nn.Linear(d, dim, bias=False, **dd)
        self.reset_scan_parameters()

    @torch.no_grad()
    def reset_scan_parameters(self) -> None:
        """Initialise what the op owns: step sizes as Mamba, decay rates uniform in [1, 16]."""
        init_step_sizes_(self.dt_bias)
        self.A_log.uniform_(1, 16).log_()
        nn.init.ones_(self.D)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map (b, h, w, dim)."""
        _, h, w, _ = x.shape
        z, x, dt = self.in_proj(x).split(self.projected, dim=-1)
        x = self.conv2d(x).flatten(1, 2)
        x, B, C = x.split(self.convolved, dim=-1)
        A = torch.exp(at_least_float32(self.A_log))
        y = ssd_noncausal(
            x.unflatten(2, (self.num_heads, -1)),
            dt.flatten(1, 2),
            -A if self.positive else A,
            B.unflatten(2, (self.num_groups, -1)),
            C.unflatten(2, (self.num_groups, -1)),
            self.D,
            self.dt_bias,
        )
        y = self.norm(y.flatten(2)).unflatten(1, (h, w)) * z
        return self.out_proj(y)
