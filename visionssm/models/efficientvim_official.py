"""EfficientViM models from the arguments and weights of its official code.

Source: https://github.com/mlvlab/EfficientViM, class ``EfficientViM`` of classification/models and
the backbone of the same name in detection/efficientViM.py.
"""

from __future__ import annotations

from typing import Any

from timm.models._features import FeatureGetterNet
from torch import nn

from .efficientvim import ENTRIES, EfficientViM, EfficientViMDistilled, official_layout
from .official import OfficialLayout, official_arguments, register_official

OFFICIAL_DEFAULTS: dict[str, Any] = {
    "in_dim": 3,
    "num_classes": 1000,
    "embed_dim": (128, 256, 512),
    "depths": (2, 2, 2),
    "mlp_ratio": 4.0,
    "ssd_expand": 1.0,
    "state_dim": (49, 25, 9),
    "distillation": False,
}
BACKBONE = "frozen_stages"  # an argument of the backbone alone: from 0 on, the stem is frozen


@register_official("efficientvim")
def build_official(kwargs: dict[str, Any]) -> tuple[nn.Module, OfficialLayout]:
    """The classifier for arguments of the official class, or with ``frozen_stages`` the backbone.

    The backbone gives the maps of the three stages as they are, and has neither heads nor norms.
    """
    args = official_arguments("EfficientViM", kwargs, OFFICIAL_DEFAULTS, {}, (BACKBONE,))
    for option in ("embed_dim", "depths", "state_dim"):
        if len(args[option]) != 3:
            raise ValueError(f"{option}: expected 3 stages, got {args[option]}")
    dense = BACKBONE in kwargs
    cls = EfficientViMDistilled if args["distillation"] and not dense else EfficientViM
    model = cls(
        in_chans=args["in_dim"],
        num_classes=0 if dense else args["num_classes"],
        embed_dim=tuple(args["embed_dim"]),
        depths=tuple(args["depths"]),
        mlp_ratio=args["mlp_ratio"],
        ssd_expand=args["ssd_expand"],
        state_dim=tuple(args["state_dim"]),
    )
    if not dense:
        _take_official_norms(model)
        return model, official_layout(model)
    backbone = FeatureGetterNet(model, (0, 1, 2))  # takes heads and their norms away
    model.register_parameter("weights", None)  # of the heads
    if args[BACKBONE] >= 0:
        model.patch_embed.requires_grad_(False)
    _take_official_norms(model)
    names = {f"model.{own}": official for own, official in official_layout(model).names.items()}
    return backbone, OfficialLayout(names, entries=ENTRIES)


def _take_official_norms(model: nn.Module) -> None:
    """Give norms the shapes that their weights have in official files, until those are loaded.

    There one over tokens is (1, c, 1), and the last one, over a map, (1, c, 1, 1).
    """
    for path, norm in model.named_modules():
        if isinstance(norm, nn.LayerNorm):
            _reshape(norm, (1, -1, 1, 1) if path == "norm.3" else (1, -1, 1))
    model.register_load_state_dict_post_hook(_give_norms_their_shape)


def _give_norms_their_shape(model: nn.Module, incompatible_keys: Any) -> None:
    for norm in model.modules():
        if isinstance(norm, nn.LayerNorm) and norm.weight.dim() > 1:
            _reshape(norm, (-1,))


def _reshape(norm: nn.LayerNorm, shape: tuple[int, ...]) -> None:
    norm.weight = nn.Parameter(norm.weight.detach().view(shape))
    norm.bias = nn.Parameter(norm.bias.detach().view(shape))
