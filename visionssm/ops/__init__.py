"""Numerics: scans as functions of tensors. No modules, no timm, no mmengine."""

from .depthwise_conv import depthwise_conv
from .hsm_ssd import hsm_ssd
from .selective_scan import selective_scan, selective_scan_fn
from .ssd import ssd
from .ssd_noncausal import ssd_noncausal
from .state_fusion import state_fusion

__all__ = [
    "depthwise_conv",
    "hsm_ssd",
    "selective_scan",
    "selective_scan_fn",
    "ssd",
    "ssd_noncausal",
    "state_fusion",
]
