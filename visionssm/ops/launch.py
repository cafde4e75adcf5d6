"""What all Triton implementations need on the host: where they can run and where they launch."""

from __future__ import annotations

import contextlib
import os

import torch
from torch import Tensor


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def check_device(name: str, x: Tensor) -> None:
    """Raise ValueError where kernels cannot run on the argument `name`: off CUDA, or in float64."""
    if x.dtype == torch.float64:
        raise ValueError(f"{name}: the Triton implementation computes in float32, got float64")
    if not x.is_cuda and not interpreting():
        raise ValueError(
            f"{name}: the Triton implementation needs a CUDA device, got {x.device} "
            "(TRITON_INTERPRET=1 runs it on CPU)"
        )


def device_of(x: Tensor) -> contextlib.AbstractContextManager:
    """Launch on the tensor's device, whichever is current."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def unit_stride(x: Tensor) -> Tensor:
    """Channels must be adjacent for coalesced rows; other strides are free."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def cdiv(x: int, y: int) -> int:
    """Ratio of integers, rounded up; `triton.cdiv`, for kernels too, takes 20 times as long."""
    return -(-x // y)


def next_power_of_2(n: int) -> int:
    """Least power of two that is not below n; `triton.next_power_of_2` is slow, too."""
    return 1 << max(0, n - 1).bit_length()
