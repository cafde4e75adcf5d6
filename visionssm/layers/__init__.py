"""Mixers and shared parts. Maps are channels-last, (b, h, w, c), throughout."""

from .bidirectional_mamba import BidirectionalMamba
from .downsample import ConvDownsample, InvertedDownsample
from .hsm_ssd import HSMSSD
from .multi_head_scan import GatedMultiHeadScan, MultiHeadScan
from .norm import LayerNormFp32, RmsNormFp32
from .spatial_ssm import SpatialSSM
from .ss2d import SS2D
from .stem import ConvStem, PatchStem, ResidualConvStem

__all__ = [
    "HSMSSD",
    "SS2D",
    "BidirectionalMamba",
    "ConvDownsample",
    "ConvStem",
    "GatedMultiHeadScan",
    "InvertedDownsample",
    "LayerNormFp32",
    "MultiHeadScan",
    "PatchStem",
    "ResidualConvStem",
    "RmsNormFp32",
    "SpatialSSM",
]
