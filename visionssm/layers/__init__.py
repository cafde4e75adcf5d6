"""Mixers and shared parts. Maps are channels-last, (b, h, w, c), throughout."""

from .bidirectional_mamba import BidirectionalMamba
from .downsample import ConvDownsample
from .multi_head_scan import GatedMultiHeadScan, MultiHeadScan
from .norm import LayerNormFp32, RmsNormFp32
from .ss2d import SS2D
from .stem import ConvStem, PatchStem

__all__ = [
    "SS2D",
    "BidirectionalMamba",
    "ConvDownsample",
    "ConvStem",
    "GatedMultiHeadScan",
    "LayerNormFp32",
    "MultiHeadScan",
    "PatchStem",
    "RmsNormFp32",
]
