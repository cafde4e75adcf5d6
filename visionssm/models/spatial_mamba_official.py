"""Spatial-Mamba models from the arguments and weights of its official code.

Source: https://github.com/EdwardChasel/Spatial-Mamba, classification/models/spatialmamba.py,
classes ``SpatialMamba`` and ``Backbone_SpatialMamba``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import nn

from visionssm.layers.spatial_ssm import DT_INITS

from .dense import official_backbone
from .official import OfficialLayout, choose, official_arguments, register_official
from .spatial_mamba import SpatialMamba, official_layout

OFFICIAL_DEFAULTS: dict[str, Any] = {
    "in_chans": 3,
    "num_classes": 1000,
    "depths": (2, 2, 9, 2),
    "dims": (96, 192, 384, 768),
    "dt_init": "random",
    "mlp_ratio": 4.0,
    "drop_path_rate": 0.1,
    "use_checkpoint": False,
    "out_indices": None,
}
OFFICIAL_IGNORED = ("img_size", "patch_size", "patch_norm")  # taken there, and not read
# What no published weight uses: only these values are supported.
OFFICIAL_FIXED: dict[str, Any] = {
    "d_state": 1,
    "drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "norm_layer": "ln",
    "pretrained": None,
}


@register_official("spatialmamba")
def build_official(kwargs: dict[str, Any]) -> tuple[nn.Module, OfficialLayout]:
    """The model for arguments of the official class, or with ``out_indices`` its backbone."""
    args = official_arguments(
        "Spatial-Mamba", kwargs, OFFICIAL_DEFAULTS, OFFICIAL_FIXED, OFFICIAL_IGNORED
    )
    dims = args["dims"]
    if isinstance(dims, int):
        dims = [dims * 2**i for i in range(len(args["depths"]))]
    if any(wide != 2 * dim for dim, wide in pairwise(dims)):
        raise ValueError(f"dims: expected each stage twice as wide as the one before, got {dims}")
    out_indices = args["out_indices"]
    model = SpatialMamba(
        in_chans=args["in_chans"],
        num_classes=args["num_classes"] if out_indices is None else 0,
        depths=tuple(args["depths"]),
        dims=tuple(dims),
        dt_init=choose("dt_init", args["dt_init"], {name: name for name in DT_INITS}),
        mlp_ratio=args["mlp_ratio"],
        drop_path_rate=args["drop_path_rate"],
    )
    model.set_grad_checkpointing(args["use_checkpoint"])
    layout = official_layout(model)
    return (model, layout) if out_indices is None else official_backbone(model, layout, out_indices)
