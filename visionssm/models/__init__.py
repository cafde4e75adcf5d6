"""Model families, one file each; importing this package registers them with timm."""

from . import (
    efficientvim,
    efficientvim_official,
    efficientvmamba,
    efficientvmamba_official,
    spatial_mamba,
    spatial_mamba_official,
    vim,
    vim_official,
    vmamba,
    vmamba_official,
    vssd,
    vssd_official,
)
from .accelerate import Acceleration, accelerate
from .dense import DenseBackbone
from .official import from_official
from .registry import list_models

__all__ = [
    "Acceleration",
    "DenseBackbone",
    "accelerate",
    "efficientvim",
    "efficientvim_official",
    "efficientvmamba",
    "efficientvmamba_official",
    "from_official",
    "list_models",
    "spatial_mamba",
    "spatial_mamba_official",
    "vim",
    "vim_official",
    "vmamba",
    "vmamba_official",
    "vssd",
    "vssd_official",
]
