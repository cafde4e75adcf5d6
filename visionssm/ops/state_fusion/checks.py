"""Argument checks of `state_fusion`: every error names the argument, what came, what fits."""

from __future__ import annotations

from torch import Tensor

from ..dispatch import FLOATING


def check_state_fusion_args(x: Tensor, weight: Tensor) -> None:
    """Raise ValueError unless the arguments form a valid call of `state_fusion`."""
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(f"x: expected (b, h, w, d) with h, w, d >= 1, got {tuple(x.shape)}")
    if tuple(weight.shape) != (3, 3, 3, x.shape[3]):
        raise ValueError(f"weight: expected (3, 3, 3, {x.shape[3]}), got {tuple(weight.shape)}")
    for name, tensor in (("x", x), ("weight", weight)):
        if tensor.dtype not in FLOATING:
            raise ValueError(f"{name}: expected a real floating dtype, got {tensor.dtype}")
    if weight.device != x.device:
        raise ValueError(f"weight: expected device {x.device} as x, got {weight.device}")
