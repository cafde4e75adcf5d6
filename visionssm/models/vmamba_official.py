"""VMamba models from the arguments and weights of its official code.

Source: https://github.com/MzeroMiko/VMamba, classification/models/vmamba.py, classes ``VSSM`` and
``Backbone_VSSM``.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from visionssm.layers.ss2d import INITS

from .dense import official_backbone
from .official import OfficialLayout, choose, official_arguments, register_official
from .vmamba import VMamba, official_layout

OFFICIAL_DEFAULTS: dict[str, Any] = {
    "patch_size": 4,
    "in_chans": 3,
    "num_classes": 1000,
    "depths": (2, 2, 9, 2),
    "dims": (96, 192, 384, 768),
    "ssm_d_state": 16,
    "ssm_ratio": 2.0,
    "ssm_dt_rank": "auto",
    "ssm_act_layer": "silu",
    "ssm_conv": 3,
    "ssm_conv_bias": True,
    "ssm_drop_rate": 0.0,
    "ssm_init": "v0",
    "forward_type": "v2",
    "mlp_ratio": 4.0,
    "mlp_act_layer": "gelu",
    "mlp_drop_rate": 0.0,
    "gmlp": False,
    "drop_path_rate": 0.1,
    "patch_norm": True,
    "norm_layer": "ln",
    "downsample_version": "v2",
    "patchembed_version": "v1",
    "use_checkpoint": False,
    "out_indices": None,
}
# Read for a position embedding alone, which is not supported; and set by configurations, not read.
OFFICIAL_IGNORED = ("imgsize", "ssm_rank_ratio")
# What no published weight uses: only these values are supported.
OFFICIAL_FIXED: dict[str, Any] = {"posembed": False, "post_norm": False, "pretrained": None}
OFFICIAL_STEMS = {"v1": "patch", "v2": "conv"}
OFFICIAL_DOWNSAMPLES = {"v1": "merge", "v2": "conv2", "v3": "conv3"}
OFFICIAL_ACTS = {"silu": "silu", "gelu": "gelu", "relu": "relu", "sigmoid": "sigmoid"}
# One function of the weights under many names, which chose between kernels.
OFFICIAL_SCANS = ("v0", "v0seq", "v01", "v02", "v03", "v04", "v05", "v2", "v3")


@register_official("vmamba")
def build_official(kwargs: dict[str, Any]) -> tuple[nn.Module, OfficialLayout]:
    """The model for arguments of the official ``VSSM``, or with ``out_indices`` its backbone."""
    args = official_arguments("VMamba", kwargs, OFFICIAL_DEFAULTS, OFFICIAL_FIXED, OFFICIAL_IGNORED)
    choose("norm_layer", args["norm_layer"].lower(), {"ln": None, "ln2d": None})
    dims = args["dims"]
    if isinstance(dims, int):
        dims = [dims * 2**i for i in range(len(args["depths"]))]
    out_indices = args["out_indices"]
    model = VMamba(
        in_chans=args["in_chans"],
        num_classes=args["num_classes"] if out_indices is None else 0,
        patch_size=args["patch_size"],
        depths=tuple(args["depths"]),
        dims=tuple(dims),
        stem=choose("patchembed_version", args["patchembed_version"], OFFICIAL_STEMS),
        patch_norm=args["patch_norm"],
        downsample=choose("downsample_version", args["downsample_version"], OFFICIAL_DOWNSAMPLES),
        ssm_d_state=args["ssm_d_state"],
        ssm_ratio=args["ssm_ratio"],
        ssm_dt_rank=args["ssm_dt_rank"],
        ssm_drop_rate=args["ssm_drop_rate"],
        mlp_ratio=args["mlp_ratio"],
        gated_mlp=args["gmlp"],
        mlp_act_layer=choose("mlp_act_layer", args["mlp_act_layer"].lower(), OFFICIAL_ACTS),
        mlp_drop_rate=args["mlp_drop_rate"],
        drop_path_rate=args["drop_path_rate"],
        **_official_scan_args(args),
    )
    model.set_grad_checkpointing(args["use_checkpoint"])
    layout = official_layout(model)
    return (model, layout) if out_indices is None else official_backbone(model, layout, out_indices)


def _official_scan_args(args: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `VMamba` for ``forward_type`` and the options it governs."""
    forward_type = args["forward_type"]
    suffixes = {}
    for suffix in ("_no32", "_oact", "_noz", "_nozact"):  # as the official code strips them
        suffixes[suffix] = forward_type.endswith(suffix)
        forward_type = forward_type.removesuffix(suffix)
    if forward_type not in OFFICIAL_SCANS:
        raise ValueError(
            f"forward_type: expected one of {OFFICIAL_SCANS} with suffixes {tuple(suffixes)}, "
            f"got {args['forward_type']!r}"
        )
    if args["forward_type"] in ("v0", "v0seq"):  # its class takes none of these options
        return {"ssm_conv": 3, "ssm_conv_bias": True, "ssm_gate": True, "ssm_act_layer": "silu"}
    if args["ssm_conv"] > 1 and args["ssm_conv"] % 2 == 0:
        raise ValueError(f"ssm_conv: expected an odd kernel, or at most 1, got {args['ssm_conv']}")
    return {
        "ssm_conv": max(1, args["ssm_conv"]),  # below 2 there is no convolution
        "ssm_conv_bias": args["ssm_conv_bias"],
        "ssm_gate": not suffixes["_noz"],
        "ssm_gate_act": not suffixes["_nozact"],
        "ssm_act_layer": choose("ssm_act_layer", args["ssm_act_layer"].lower(), OFFICIAL_ACTS),
        "ssm_out_act_layer": "gelu" if suffixes["_oact"] else None,
        "ssm_init": choose("ssm_init", args["ssm_init"], {name: name for name in INITS}),
    }
