"""Mixers and shared parts. Maps are channels-last, (b, h, w, c), throughout."""

from .bidirectional_mamba import BidirectionalMamba
from .downsample import ConvDownsample
from .norm import LayerNormFp32, RmsNormFp32
from .ss2d import SS2D
from .stem import ConvStem, PatchStem

__all__ = [
    "SS2D",
    "BidirectionalMamba",
    "ConvDownsample",
    "ConvStem",
    "LayerNormFp32",
    "PatchStem",
    "RmsNormFp32",
]
