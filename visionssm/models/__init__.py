"""Model families, one file each; importing this package registers them with timm."""

from . import vim, vim_official, vmamba, vmamba_official
from .dense import DenseBackbone
from .official import from_official
from .registry import list_models

__all__ = [
    "DenseBackbone",
    "from_official",
    "list_models",
    "vim",
    "vim_official",
    "vmamba",
    "vmamba_official",
]
