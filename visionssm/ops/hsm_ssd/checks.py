"""Argument checks of `hsm_ssd`: every error names the argument, what came, what fits."""

from __future__ import annotations

from torch import Tensor

from ..dispatch import FLOATING

MAX_STATE_SIZE = 256


def check_hsm_ssd_args(x: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> None:
    """Raise ValueError unless the arguments form a valid call of `hsm_ssd`."""
    if x.dim() != 3 or 0 in x.shape[1:]:
        raise ValueError(f"x: expected (b, l, d) with l, d >= 1, got {tuple(x.shape)}")
    b, l, _ = x.shape
    if A.dim() != 1 or not 1 <= A.shape[0] <= MAX_STATE_SIZE:
        raise ValueError(f"A: expected (1..{MAX_STATE_SIZE},), got {tuple(A.shape)}")
    expected = (b, l, A.shape[0])
    for name, tensor in (("dt", dt), ("B", B)):
        if tuple(tensor.shape) != expected:
            raise ValueError(f"{name}: expected {expected}, got {tuple(tensor.shape)}")
    for name, tensor in (("x", x), ("dt", dt), ("A", A), ("B", B)):
        if tensor.dtype not in FLOATING:
            raise ValueError(f"{name}: expected a real floating dtype, got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"{name}: expected device {x.device} as x, got {tensor.device}")
