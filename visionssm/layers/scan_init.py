"""Mamba's initial values of what a selective scan owns. Source: Mamba, arXiv 2312.00752, 3.6."""

from __future__ import annotations

import math

import torch
from torch import Tensor

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4


@torch.no_grad()
def init_step_sizes_(bias: Tensor) -> None:
    """Fill a step-size bias so that its softplus is log-uniform in [1e-3, 1e-1]."""
    dt = torch.empty_like(bias).uniform_(math.log(DT_MIN), math.log(DT_MAX))
    dt = dt.exp().clamp(min=DT_FLOOR)
    bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus


@torch.no_grad()
def init_decay_rates_(A_log: Tensor) -> None:
    """Fill the logarithms (..., n) of decay rates so that the rates are 1..n."""
    rates = torch.arange(1, A_log.shape[-1] + 1, device=A_log.device)
    A_log.copy_(rates.to(A_log.dtype).log().expand_as(A_log))
