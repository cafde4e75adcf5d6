"""Mixers and shared parts. Maps are channels-last, (b, h, w, c), throughout."""

from .bidirectional_mamba import BidirectionalMamba
from .block import CPEBlock
from .depthwise import DepthwiseConv2d
from .downsample import ConvDownsample, InvertedDownsample
from .es2d import ES2D
from .hsm_ssd import HSMSSD
from .multi_head_scan import GatedMultiHeadScan, MultiHeadScan
from .noncausal_ssd import NonCausalSSD
from .norm import LayerNormFp32, RmsNormFp32
from .point_scan import PointScan
from .spatial_ssm import SpatialSSM
from .ss2d import SS2D
from .stem import ConvStem, PatchStem, ResidualConvStem

__all__ = [
    "ES2D",
    "HSMSSD",
    "SS2D",
    "BidirectionalMamba",
    "CPEBlock",
    "ConvDownsample",
    "ConvStem",
    "DepthwiseConv2d",
    "GatedMultiHeadScan",
    "InvertedDownsample",
    "LayerNormFp32",
    "MultiHeadScan",
    "NonCausalSSD",
    "PatchStem",
    "PointScan",
    "ResidualConvStem",
    "RmsNormFp32",
    "SpatialSSM",
]
