"""Numerics: scans as functions of tensors. No modules, no timm, no mmengine."""

from .selective_scan import selective_scan, selective_scan_fn

__all__ = ["selective_scan", "selective_scan_fn"]
