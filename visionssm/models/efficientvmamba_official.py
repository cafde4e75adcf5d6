"""EfficientVMamba models from the arguments and weights of its official code.

Source: https://github.com/TerryPei/EfficientVMamba, classification/models/vmamba_efficient.py,
classes ``EfficientVSSM`` and ``Backbone_EfficientVSSM``. The repository holds no licence file:
names of arguments and of parameters are all that is taken from it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .dense import official_backbone
from .efficientvmamba import EfficientVMamba, official_layout
from .official import OfficialLayout, official_arguments, register_official

OFFICIAL_DEFAULTS: dict[str, Any] = {
    "patch_size": 4,
    "in_chans": 3,
    "num_classes": 1000,
    "depths": (2, 2, 9, 2),
    "dims": (96, 192, 384, 768),
    "ssm_ratio": 2.0,
    "mlp_ratio": 4.0,
    "drop_path_rate": 0.1,
    "patch_norm": True,
    "downsample_version": "v2",
    "use_checkpoint": False,
    "out_indices": None,
}
# Taken there and without an effect: state sizes are 16, ranks "auto", nothing is dropped.
OFFICIAL_IGNORED = (
    "d_state", "dt_rank", "ssm_d_state", "ssm_dt_rank", "attn_drop_rate", "drop_rate", "shared_ssm",
    "softmax_version", "window_size",
)  # fmt: skip
# What no published weight uses: only these values are supported.
OFFICIAL_FIXED: dict[str, Any] = {"step_size": 2, "norm_layer": nn.LayerNorm, "pretrained": None}


@register_official("efficientvmamba")
def build_official(kwargs: dict[str, Any]) -> tuple[nn.Module, OfficialLayout]:
    """The model for arguments of the official class, or with ``out_indices`` its backbone."""
    args = official_arguments(
        "EfficientVMamba", kwargs, OFFICIAL_DEFAULTS, OFFICIAL_FIXED, OFFICIAL_IGNORED
    )
    if args["ssm_ratio"] > 2.0:
        raise ValueError(
            f"ssm_ratio: expected at most 2.0, above it mixers differ; got {args['ssm_ratio']}"
        )
    dims = args["dims"]
    if isinstance(dims, int):
        dims = [dims * 2**i for i in range(len(args["depths"]))]
    out_indices = args["out_indices"]
    model = EfficientVMamba(
        in_chans=args["in_chans"],
        num_classes=args["num_classes"] if out_indices is None else 0,
        patch_size=args["patch_size"],
        depths=tuple(args["depths"]),
        dims=tuple(dims),
        patch_norm=args["patch_norm"],
        downsample="conv" if args["downsample_version"] == "v2" else "merge",
        ssm_ratio=args["ssm_ratio"],
        mlp_ratio=args["mlp_ratio"],
        drop_path_rate=args["drop_path_rate"],
    )
    model.set_grad_checkpointing(args["use_checkpoint"])
    layout = official_layout(model)
    return (model, layout) if out_indices is None else official_backbone(model, layout, out_indices)
