"""Which implementation of an op runs: one rule for all of them."""

from __future__ import annotations

import functools
import importlib.util
import logging

import torch

IMPLEMENTATIONS = ("auto", "triton", "torch", "reference")
TRITON_INSTALLED = importlib.util.find_spec("triton") is not None
_logger = logging.getLogger(__name__)


@functools.cache
def _log_once(message: str) -> None:
    _logger.warning(message)


def resolve_implementation(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The implementation "auto" stands for on this device and dtype; other names are returned.

    Triton on CUDA, PyTorch elsewhere, without Triton (which is logged) and for float64 (too).
    """
    if name != "auto":
        return name
    if device.type != "cuda":
        return "torch"
    if not TRITON_INSTALLED:
        _log_once("Triton is missing: ops on CUDA run their slower PyTorch implementations")
        return "torch"
    if dtype == torch.float64:
        _log_once("float64 ops on CUDA run their slower PyTorch implementations")
        return "torch"
    return "triton"
