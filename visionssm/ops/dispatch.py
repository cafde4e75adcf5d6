"""Which implementation of an op runs, on which dtypes and in which: one rule for all of them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging

import torch

IMPLEMENTATIONS = ("auto", "triton", "torch", "reference")
FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
TRITON_INSTALLED = importlib.util.find_spec("triton") is not None
_logger = logging.getLogger(__name__)


@functools.cache
def log_once(message: str) -> None:
    """Warn, the first time that a process has this to say."""
    _logger.warning(message)


@functools.cache
def numba_works() -> bool:
    """Whether Numba is installed, and fits the NumPy that is: if not, that is logged."""
    if importlib.util.find_spec("numba") is None:
        return False
    try:
        importlib.import_module("numba")
    except ImportError as error:
        log_once(f"scans on the CPU run their slower PyTorch implementation, for {error}")
        return False
    return True


def check_implementation(name: str, *, has_numba: bool = False) -> None:
    """Raise ValueError unless there is an implementation of that name."""
    names = (*IMPLEMENTATIONS, "numba") if has_numba else IMPLEMENTATIONS
    if name not in names:
        raise ValueError(f"implementation: expected one of {sorted(names)}, got {name!r}")


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """float32, or float64 when x is; torch.promote_types would be a node of traced graphs."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def resolve_implementation(
    name: str, device: torch.device, dtype: torch.dtype, *, has_numba: bool = False
) -> str:
    """The implementation "auto" stands for on this device and dtype; other names are returned.

    Triton on CUDA, Numba on CPUs if the op has it and it is there, and PyTorch elsewhere and for
    float64. That Triton is missing, or float64 on CUDA, is logged.
    """
    if name != "auto":
        return name
    if device.type == "cpu" and has_numba and dtype != torch.float64 and numba_works():
        return "numba"
    if device.type != "cuda":
        return "torch"
    if not TRITON_INSTALLED:
        log_once("Triton is missing: ops on CUDA run their slower PyTorch implementations")
        return "torch"
    if dtype == torch.float64:
        log_once("float64 ops on CUDA run their slower PyTorch implementations")
        return "torch"
    return "triton"
