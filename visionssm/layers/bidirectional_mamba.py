"""BidirectionalMamba: Vim's token mixer, a selective scan of a sequence in both directions."""

from __future__ import annotations

import math
from typing import cast

import torch
from timm.models import register_notrace_function
from torch import Tensor, nn

from visionssm.ops import depthwise_conv, selective_scan
from visionssm.scans import scan_routes

from .precision import at_least_float32
from .projections import project_routes, project_step_sizes
from .scan_init import init_decay_rates_, init_step_sizes_
from .sizes import check_state_size

# They look at sizes and devices, so a symbolic trace keeps each as a single call.
register_notrace_function(depthwise_conv)
register_notrace_function(selective_scan)
register_notrace_function(scan_routes)

NUM_ROUTES = 2  # forward and reverse


class BidirectionalMamba(nn.Module):
    """Selective scan of a sequence from both ends (b, l, dim) -> (b, l, dim).

    Each direction has its own convolution, projections and decay; input projection, gate and
    output projection are shared. Nothing is flipped: all tensors stay in token order, where the
    reverse direction's causal convolution looks ahead and its route runs backwards::

        x, z = in_proj(x);  x_k = silu(conv_k(x))                k = forward, reverse
        y = sum over k of scan_k(x_k);  out = out_proj(y * silu(z)), halved if `average`

    Parameters of both directions (d = expand dim channels, n state, r = ceil(dim / 16) step-size
    rank, dt rows before B and C) are joined along their first axis, forward first.

    Args:
        dim: channels of input and output.
        d_state: state size n, 1 to 64.
        expand: inner channels over dim.
        kernel_size: taps of the depthwise convolutions.
        average: halve the sum of the two directions.

    Raises:
        ValueError: expand or kernel_size is less than 1, or d_state out of its range.

    Source: Vim, arXiv 2401.09417, section 3.3 and algorithm 1.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        expand: int = 2,
        kernel_size: int = 4,
        average: bool = True,
        device=None,
        dtype=None,
    ):
        super().__init__()
        for name, value in (("expand", expand), ("kernel_size", kernel_size)):
            if value < 1:
                raise ValueError(f"{name}: expected a positive integer, got {value}")
        dd = {"device": device, "dtype": dtype}
        k, d = NUM_ROUTES, expand * dim
        self.d_state = check_state_size(d_state)
        self.dt_rank = math.ceil(dim / 16)
        self.average = average
        self.in_proj = nn.Linear(dim, 2 * d, bias=False, **dd)
        self.conv_weight = nn.Parameter(torch.empty(k * d, 1, kernel_size, **dd))
        self.conv_bias = nn.Parameter(torch.empty(k * d, **dd))
        self.act = nn.SiLU()
        self.x_proj_weight = nn.Parameter(torch.empty(k * (self.dt_rank + 2 * d_state), d, **dd))
        self.dt_proj_weight = nn.Parameter(torch.empty(k * d, self.dt_rank, **dd))
        # Exponents and step sizes keep float32 in a model of lower precision.
        fp32 = {"device": device, "dtype": torch.float32}
        self.dt_proj_bias = nn.Parameter(torch.empty(k * d, **fp32))
        self.A_log = nn.Parameter(torch.empty(k * d, d_state, **fp32))
        self.D = nn.Parameter(torch.empty(k * d, **fp32))
        self.out_proj = nn.Linear(d, dim, bias=False, **dd)
        self.reset_scan_parameters()

    @torch.no_grad()
    def reset_scan_parameters(self) -> None:
        """Initialise what the two directions own, as the official code does; linear layers stay.

        Step sizes are log-uniform in [1e-3, 1e-1] forwards; those of the reverse direction start
        from a bias of zero, for the official code initialises the forward one alone.
        """
        bound = self.conv_weight.shape[-1] ** -0.5
        nn.init.uniform_(self.conv_weight, -bound, bound)
        nn.init.uniform_(self.conv_bias, -bound, bound)
        nn.init.kaiming_uniform_(self.x_proj_weight, a=math.sqrt(5))
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj_weight, -bound, bound)
        nn.init.zeros_(self.dt_proj_bias)
        init_step_sizes_(self.dt_proj_bias.chunk(NUM_ROUTES)[0])
        init_decay_rates_(self.A_log)
        nn.init.ones_(self.D)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a sequence of tokens (b, l, dim)."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x = self.convolve(x)
        return self.gate(self.scan(x, *self.project(x)), z)

    def scan(
        self,
        x: Tensor,
        delta: Tensor,
        B: Tensor,
        C: Tensor,
        elapsed: Tensor | None = None,
        gaps: Tensor | None = None,
        routes: Tensor | None = None,
    ) -> Tensor:
        """Scan tokens (b, l, 2, d) in both directions, which are added up: (b, l, d).

        Args:
            x: convolved tokens of each direction.
            delta: step sizes before bias and softplus (b, 2, l, d).
            B: (b, 2, l, n).
            C: (b, 2, l, n).
            elapsed: time since the last token of each direction, see `selective_scan`.
            gaps: (b, 2, s) step sizes that pass in each step, see `selective_scan`.
            routes: of both directions, (2, s) or (b, 2, s); None is from either end to the other.
        """
        complete = routes is None
        if routes is None:
            routes = scan_routes("bidirectional", 1, x.shape[1], x)
        y = selective_scan(
            x.transpose(1, 2),
            delta,
            -torch.exp(at_least_float32(self.A_log)).unflatten(0, (NUM_ROUTES, -1)),
            B,
            C,
            at_least_float32(self.D).unflatten(0, (NUM_ROUTES, -1)),
            self.step_size_bias(),
            elapsed=elapsed,
            gaps=gaps,
            routes=routes,
            reduce="sum",
            complete=complete,
        )
        return cast(Tensor, y)

    def gate(self, y: Tensor, z: Tensor) -> Tensor:
        """Output of the mixer for scanned tokens y and gates z, both (b, l, d)."""
        y = self.out_proj(y * self.act(z))
        return 0.5 * y if self.average else y

    def step_size_bias(self) -> Tensor:
        """What is added to delta before the softplus, (2, d)."""
        return at_least_float32(self.dt_proj_bias).unflatten(0, (NUM_ROUTES, -1))

    def convolve(self, x: Tensor) -> Tensor:
        """Activated depthwise convolutions of tokens (b, l, d): (b, l, 2, d), in token order.

        One call for both: the reverse one reads the tokens that follow, its taps turned round.
        """
        forward, reverse = self.conv_weight.chunk(NUM_ROUTES)
        weight = torch.cat([forward, reverse.flip(-1)]).unsqueeze(-1)
        padding = (weight.shape[2] - 1, 0)
        y = depthwise_conv(
            x.unsqueeze(2), weight, self.conv_bias,
            padding=padding, mirrored=True, activation="silu",
        )  # fmt: skip
        return y.squeeze(2).unflatten(-1, (NUM_ROUTES, -1))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (b, l, k, d) to delta (b, k, l, d), B and C (b, k, l, n), all in token order."""
        x = project_routes(x, self.x_proj_weight.unflatten(0, (NUM_ROUTES, -1)))
        _, B, C = x.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = project_step_sizes(x, self.dt_proj_weight.unflatten(0, (NUM_ROUTES, -1)))
        return delta, B.transpose(1, 2), C.transpose(1, 2)
