"""Scans of other packages, brought to the problems of `ops`."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from visionssm.ops.selective_scan.reference import gather_steps, scatter_steps

if TYPE_CHECKING:
    from .ops import ScanProblem


@functools.cache
def mamba_ssm_installed() -> bool:
    """Whether the package is there; a broken installation counts, and fails when it is called."""
    return importlib.util.find_spec("mamba_ssm") is not None


def mamba_ssm_scan(*args, **kwargs) -> Tensor:
    """mamba_ssm's CUDA kernels."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return selective_scan_fn(*args, **kwargs)


def mamba_ssm_ssd(x, dt, A, B, C, D, dt_bias) -> Tensor:
    """mamba_ssm's Triton kernels of Mamba-2, in the chunks that its models use."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return mamba_chunk_scan_combined(
        x, dt, A, B, C, chunk_size=256, D=D, dt_bias=dt_bias, dt_softplus=True
    )


class ChannelFirstScan:
    """A scan of mamba_ssm's signature: (b, k d, l), routes as groups.

    Permuting the tokens into route order beforehand is left out of its time, and so is merging.

    Args:
        problem: what to compute.
        scan_fn: called as ``scan_fn(u, delta, A, B, C, D, delta_bias=..., delta_softplus=True)``.
    """

    y_name = "y"

    def __init__(self, problem: ScanProblem, scan_fn: Callable[..., Tensor]):
        self.problem = problem
        self.scan_fn = scan_fn
        self.extra_bytes = 0
        self.roundings = problem.case.routes  # the gradient of u is one of each route, added up

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        inputs = {}
        for name, x in self.problem.inputs.items():
            if x.dim() == 4:
                x = self._steps(x.expand(-1, self.problem.case.routes, -1, -1))
                if name in ("u", "delta"):
                    x = x.flatten(1, 2)
            else:
                x = x.flatten(0, 1)
            inputs[name] = x.detach().contiguous().requires_grad_()
        return inputs

    @cached_property
    def grad_y(self) -> Tensor:
        grad_y = self.problem.grad_y[:, None].expand(-1, self.problem.case.routes, -1, -1)
        return self._steps(grad_y).flatten(1, 2)

    def _steps(self, x: Tensor) -> Tensor:
        """Token rows (b, k, l, c) to (b, k, c, l) in route order."""
        return gather_steps(x, self.problem.routes[None]).transpose(2, 3).contiguous()

    def run(self) -> Tensor:
        *tensors, delta_bias = self.inputs.values()
        return self.scan_fn(*tensors, delta_bias=delta_bias, delta_softplus=True)

    def in_token_order(self, name: str, x: Tensor) -> Tensor:
        """A result in the layout of the truth of that name."""
        case = self.problem.case
        if name in ("grad_A", "grad_D", "grad_delta_bias"):
            return x.unflatten(0, (case.routes, case.channels))
        if x.dim() == 3:
            x = x.unflatten(1, (case.routes, case.channels))
        x = scatter_steps(x.transpose(2, 3), self.problem.routes[None], case.tokens)
        return x.float().sum(1, keepdim=True) if name == "grad_u" else x
