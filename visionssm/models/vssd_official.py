"""VSSD models from the arguments and weights of its official code.

Source: https://github.com/YuHengsss/VSSD, classification/models/mamba2.py, classes ``VMAMBA2`` and
``Backbone_VMAMBA2``. The repository gives no licence: names of arguments and of parameters are all
that is taken from it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .dense import official_backbone
from .official import OfficialLayout, choose, official_arguments, register_official
from .vssd import VSSD, official_layout

OFFICIAL_DEFAULTS: dict[str, Any] = {
    "in_chans": 3,
    "num_classes": 1000,
    "embed_dim": 64,
    "depths": (2, 4, 12, 4),
    "num_heads": (2, 4, 8, 16),
    "mlp_ratio": 4.0,
    "drop_path_rate": 0.2,
    "simple_downsample": False,
    "simple_patch_embed": False,
    "ssd_expansion": 2,
    "ssd_ngroups": 1,
    "linear_attn_duality": False,
    "attn_types": ("mamba2", "mamba2", "mamba2", "standard"),
    "d_state": 64,
    "ssd_positve_dA": True,
    "use_checkpoint": False,
    "out_indices": None,
}
# Taken there, and without an effect: sizes are those of the image, and `ssd_expand`, which
# configurations of dense tasks set, is not read.
OFFICIAL_IGNORED = (
    "img_size", "image_size", "patch_size", "qkv_bias", "ssd_chunk_size", "ssd_expand",
)  # fmt: skip
# What no published weight uses: only these values are supported.
OFFICIAL_FIXED: dict[str, Any] = {
    "drop_rate": 0.0,
    "norm_layer": nn.LayerNorm,
    "ape": False,
    "bidirection": False,
    "lepe": False,
    "pretrained": None,
}
OFFICIAL_MIXERS = {"mamba2": "ssd", "standard": "attention"}


@register_official("vssd")
def build_official(kwargs: dict[str, Any]) -> tuple[nn.Module, OfficialLayout]:
    """The model for arguments of the official class, or with ``out_indices`` its backbone."""
    args = official_arguments("VSSD", kwargs, OFFICIAL_DEFAULTS, OFFICIAL_FIXED, OFFICIAL_IGNORED)
    choose("linear_attn_duality", args["linear_attn_duality"], {True: None})  # else causal
    out_indices, depths = args["out_indices"], tuple(args["depths"])
    model = VSSD(
        in_chans=args["in_chans"],
        num_classes=args["num_classes"] if out_indices is None else 0,
        depths=depths,
        dims=tuple(args["embed_dim"] * 2**i for i in range(len(depths))),
        num_heads=tuple(args["num_heads"]),
        mixers=tuple(choose("attn_types", name, OFFICIAL_MIXERS) for name in args["attn_types"]),
        d_state=args["d_state"],
        expand=args["ssd_expansion"],
        num_groups=args["ssd_ngroups"],
        positive=args["ssd_positve_dA"],
        mlp_ratio=args["mlp_ratio"],
        stem="patch" if args["simple_patch_embed"] else "conv",
        downsample="conv" if args["simple_downsample"] else "inverted",
        drop_path_rate=args["drop_path_rate"],
    )
    model.set_grad_checkpointing(args["use_checkpoint"])
    layout = official_layout(model)
    return (model, layout) if out_indices is None else official_backbone(model, layout, out_indices)
