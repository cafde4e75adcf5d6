"""Vim models from the arguments and weights of its official code.

Source: https://github.com/hustvl/Vim, vim/models_mamba.py, class ``VisionMamba``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers import to_2tuple
from torch import nn

from visionssm.layers import LayerNormFp32, RmsNormFp32

from .official import OfficialLayout, choose, official_arguments, register_official
from .vim import Vim, official_layout

OFFICIAL_DEFAULTS: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "stride": 16,
    "depth": 24,
    "embed_dim": 192,
    "d_state": 16,
    "channels": 3,
    "num_classes": 1000,
    "drop_rate": 0.0,
    "drop_path_rate": 0.1,
    "norm_epsilon": 1e-5,
    "rms_norm": True,
    "final_pool_type": "none",
    "bimamba_type": "v2",
    "if_cls_token": True,
    "if_divide_out": True,
    "init_layer_scale": None,
    "use_middle_cls_token": True,
}
# Arguments that choose between kernels, or that the official code takes and does not read.
OFFICIAL_IGNORED = ("fused_add_norm", "residual_in_fp32", "pt_hw_seq_len", "if_devide_out")
# What no published weight uses: only these values are supported.
OFFICIAL_FIXED: dict[str, Any] = {
    "ssm_cfg": None,
    "initializer_cfg": None,
    "device": None,
    "dtype": None,
    "ft_seq_len": None,
    "drop_block_rate": None,
    "if_bidirectional": False,
    "if_abs_pos_embed": True,
    "if_rope": False,
    "if_rope_residual": False,
    "flip_img_sequences_ratio": -1.0,
    "if_bimamba": False,
    "use_double_cls_token": False,
}


@register_official("vim")
def build_official(kwargs: dict[str, Any]) -> tuple[nn.Module, OfficialLayout]:
    """The model for arguments of the official ``VisionMamba``."""
    args = official_arguments("Vim", kwargs, OFFICIAL_DEFAULTS, OFFICIAL_FIXED, OFFICIAL_IGNORED)
    choose("bimamba_type", args["bimamba_type"], {"v2": None})
    if args["if_cls_token"]:  # the pooling type is then not read
        choose("use_middle_cls_token", args["use_middle_cls_token"], {True: None})
        pool = "token"
    else:
        pool = choose("final_pool_type", args["final_pool_type"], {"mean": "avg"})
    norm_layer = RmsNormFp32 if args["rms_norm"] else LayerNormFp32
    model = Vim(
        img_size=to_2tuple(args["img_size"]),
        patch_size=args["patch_size"],
        stride=args["stride"],
        in_chans=args["channels"],
        num_classes=args["num_classes"],
        global_pool=pool,
        embed_dim=args["embed_dim"],
        depth=args["depth"],
        d_state=args["d_state"],
        class_token=args["if_cls_token"],
        average_directions=args["if_divide_out"],
        norm_layer=partial(norm_layer, eps=args["norm_epsilon"]),
        init_values=args["init_layer_scale"],
        pos_drop_rate=args["drop_rate"],
        drop_path_rate=args["drop_path_rate"],
    )
    return model, official_layout(model)
