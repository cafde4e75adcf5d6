"""The precision in which scans compute."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, wider ones as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
