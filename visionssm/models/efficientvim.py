"""EfficientViM

Paper: `EfficientViM: Efficient Vision Mamba with Hidden State Mixer based State Space Duality`
    - https://arxiv.org/abs/2411.15241
Code and weights: https://github.com/mlvlab/EfficientViM, MIT licence

timm's model with our mixer, and its first convolution as a matrix product on GPUs. timm has
`efficientvim_m1` to `_m4`; ours are `ssm_efficientvim_m1` to `_m4`, with the same parameters under
the same names, and give maps in either layout. One of timm's that is there already gets our mixer
by `visionssm.accelerate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, efficientvim, generate_default_cfgs, register_model
from torch import Tensor, nn

from visionssm.layers.stem import reading_images

from .accelerate import accelerate
from .official import OfficialLayout, stored_configs_readable, unwrap

__all__ = ["EfficientViM", "EfficientViMDistilled"]

HEADS = ("heads.0", "heads.1", "heads.2", "heads.3")
STRIDE = 16  # of the stem
ENTRIES = ("model_ema", "model", "state_dict")  # of a checkpoint; the published files are averages


class EfficientViM(efficientvim.EfficientViM):
    """timm's EfficientViM, arguments included, on `visionssm.layers.HSMSSD`.

    Features are three hidden states and the last map, each with a head of its own; intermediates
    are the maps of the stages, at strides 16, 32 and 64, and not normalised unless asked for.
    """

    output_fmt = "NCHW"

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        accelerate(self)
        reading_images(self.get_submodule("patch_embed.conv.0"))

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
    ) -> None:
        """Accept any image size: nothing depends on it. The stride is part of the weights.

        Raises:
            ValueError: another patch size is asked for.
        """
        if patch_size not in (None, STRIDE, (STRIDE, STRIDE)):
            raise ValueError(f"patch_size: expected {STRIDE}, got {patch_size}")

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[list[Tensor], list[Tensor]]:
        """Outputs of stages, before they are downsampled; arguments are timm's.

        Raises:
            ValueError: output_fmt is neither "NCHW" nor "NHWC".
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt: expected 'NCHW' or 'NHWC', got {output_fmt!r}")
        found: Any = super().forward_intermediates(
            x, indices, norm, stop_early, intermediates_only=intermediates_only
        )
        maps: list[Tensor] = found if intermediates_only else found[1]
        if output_fmt == "NHWC":
            maps = [m.permute(0, 2, 3, 1).contiguous() for m in maps]
        return maps if intermediates_only else (found[0], maps)


class EfficientViMDistilled(EfficientViM, efficientvim.EfficientViMDistilled):
    """With the second set of heads, which learnt from a teacher; logits are the mean of both."""


def official_layout(model: nn.Module) -> OfficialLayout:
    """Official names of the parameters: they are timm's."""
    return OfficialLayout({key: key for key in model.state_dict()}, entries=ENTRIES)


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Official weights, or our own, to our own.

    A file of the authors holds the weights and their moving average; as in timm the average is
    taken. Axes of size one, which the official normalisations have, are dropped. Unlike timm's, it
    leaves distillation heads in, so that they are refused by a model without.
    """
    weights = dict(unwrap(state_dict, ENTRIES))
    for key, parameter in model.state_dict().items():
        value = weights.get(key)
        if isinstance(value, Tensor) and _long_axes(value) == _long_axes(parameter):
            weights[key] = value.reshape(parameter.shape)
    return weights


def _long_axes(x: Tensor) -> list[int]:
    return [size for size in x.shape if size != 1]


def _cfg(timm_name: str, file: str, size: int = 224, distilled: bool = False) -> dict[str, Any]:
    """Weights come from timm's copy; `url` is the authors' page, which a browser must download."""
    return {
        "url": f"https://drive.google.com/file/d/{file}/view?usp=drive_link",
        "hf_hub_id": f"timm/{timm_name}",
        "num_classes": 1000,
        "input_size": (3, size, size),
        "pool_size": (4, 4),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.conv.0.conv",
        "classifier": HEADS + tuple(f"heads_dist.{i}" for i in range(4) if distilled),
        "license": "mit",
        "paper_ids": "arXiv:2411.15241",
        "paper_name": "EfficientViM: Efficient Vision Mamba with Hidden State Mixer based State "
        "Space Duality",
        "origin_url": "https://github.com/mlvlab/EfficientViM",
    }


FILES = {  # of the authors, by model and tag
    "m1.e450_in1k": "1ztpSVnWccoGEEobpmk107US3MjX4LEgz",
    "m1.e300_in1k": "1zat4-1npC-kvVkDsCDp--c5Sou7gn5Uj",
    "m2.e450_in1k": "1_YbrVx06cLtAaCgLG-jKH5tx1mLmnfO2",
    "m2.e300_in1k": "1Mm7Ems4KHFCunNJ8iI0FFQOC3hav7sEj",
    "m3.e450_in1k": "1z8dxkVLPbZdHaran9pDeuMmILsz5xUlf",
    "m3.e300_in1k": "1zmqmSwl0FHSQHaqjHHGR1XRalPibi_sf",
    "m4.e450_in1k": "1rVnX2FT9AVJdU6xSPhEUllXZlhUYv28z",
    "m4.e300_in1k": "1cfRSlvtPaGxMf1N1N_m3e1_IDh7b_OEq",
    "m1_dist.in1k": "1S0HSauwj-d-2_tqf20fBlNAdQbUxhypD",
    "m2_dist.in1k": "1HrzY3hI1F0FwXXy8ejO6kXUi-QGK4I74",
    "m3_dist.in1k": "13u_UgyOC2sH1ThcQO4GhnW572SggfsTq",
    "m4_dist.in1k": "1gvINJ-oszWj7_Gb9wAYuIGV15xWDAQxQ",
}
default_cfgs = generate_default_cfgs(
    {
        f"ssm_efficientvim_{name}": _cfg(
            f"efficientvim_{name}",
            file,
            size=256 if name.startswith("m4") else 224,
            distilled="_dist" in name,
        )
        for name, file in FILES.items()
    }
)

SIZES: dict[str, dict[str, Any]] = {
    "m1": dict(embed_dim=(128, 192, 320), depths=(2, 2, 2), state_dim=(49, 25, 9)),
    "m2": dict(embed_dim=(128, 256, 512), depths=(2, 2, 2), state_dim=(49, 25, 9)),
    "m3": dict(embed_dim=(224, 320, 512), depths=(2, 2, 2), state_dim=(49, 25, 9)),
    "m4": dict(embed_dim=(224, 320, 512), depths=(3, 4, 2), state_dim=(64, 32, 16)),
}


def _create(name: str, pretrained: bool, kwargs: dict[str, Any]) -> EfficientViM:
    size, _, distilled = name.partition("_")
    with stored_configs_readable():
        return build_model_with_cfg(
            EfficientViMDistilled if distilled else EfficientViM,
            f"ssm_efficientvim_{name}",
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg={"out_indices": (0, 1, 2), "feature_cls": "getter"},
            **{**SIZES[size], **kwargs},
        )


@register_model
def ssm_efficientvim_m1(pretrained: bool = False, **kwargs) -> EfficientViM:
    """EfficientViM-M1: 6.7 M parameters, 73.5 % ImageNet top-1 at 224 (450 epochs)."""
    return _create("m1", pretrained, kwargs)


@register_model
def ssm_efficientvim_m2(pretrained: bool = False, **kwargs) -> EfficientViM:
    """EfficientViM-M2: 13.9 M parameters, 75.8 % ImageNet top-1 at 224 (450 epochs)."""
    return _create("m2", pretrained, kwargs)


@register_model
def ssm_efficientvim_m3(pretrained: bool = False, **kwargs) -> EfficientViM:
    """EfficientViM-M3: 16.6 M parameters, 77.9 % ImageNet top-1 at 224 (450 epochs)."""
    return _create("m3", pretrained, kwargs)


@register_model
def ssm_efficientvim_m4(pretrained: bool = False, **kwargs) -> EfficientViM:
    """EfficientViM-M4: 19.6 M parameters, 79.6 % ImageNet top-1 at 256 (450 epochs)."""
    return _create("m4", pretrained, kwargs)


@register_model
def ssm_efficientvim_m1_dist(pretrained: bool = False, **kwargs) -> EfficientViM:
    """EfficientViM-M1, distilled: 7.6 M parameters, 74.6 % ImageNet top-1 at 224."""
    return _create("m1_dist", pretrained, kwargs)


@register_model
def ssm_efficientvim_m2_dist(pretrained: bool = False, **kwargs) -> EfficientViM:
    """EfficientViM-M2, distilled: 15.3 M parameters, 76.7 % ImageNet top-1 at 224."""
    return _create("m2_dist", pretrained, kwargs)


@register_model
def ssm_efficientvim_m3_dist(pretrained: bool = False, **kwargs) -> EfficientViM:
    """EfficientViM-M3, distilled: 18.2 M parameters, 79.1 % ImageNet top-1 at 224."""
    return _create("m3_dist", pretrained, kwargs)


@register_model
def ssm_efficientvim_m4_dist(pretrained: bool = False, **kwargs) -> EfficientViM:
    """EfficientViM-M4, distilled: 21.2 M parameters, 80.7 % ImageNet top-1 at 256."""
    return _create("m4_dist", pretrained, kwargs)
