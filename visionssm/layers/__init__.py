"""Mixers and shared parts. Maps are channels-last, (b, h, w, c), throughout."""

from .downsample import ConvDownsample
from .ss2d import SS2D
from .stem import ConvStem, PatchStem

__all__ = ["SS2D", "ConvDownsample", "ConvStem", "PatchStem"]
