"""Spatial-Mamba

Paper: `Spatial-Mamba: Effective Visual State Space Models via Structure-aware State Fusion`
    - https://arxiv.org/abs/2410.15091
Code and weights: https://github.com/EdwardChasel/Spatial-Mamba, Apache-2.0 licence

A hierarchy of four stages whose token mixer scans the image once, along its rows, and fuses the
states with their neighbours before they are read out. Maps are channels-last throughout.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models import generate_default_cfgs, register_model
from timm.models._hub import get_cache_dir
from torch import nn

from visionssm.layers import CPEBlock, InvertedDownsample, ResidualConvStem, SpatialSSM
from visionssm.layers.typing import Layer

from .official import OfficialLayout, convert_official
from .staged import StagedModel, create_staged, imagenet_cfg, init_linear, staged_layout

__all__ = ["SpatialMamba"]


class SpatialMamba(StagedModel):
    """Spatial-Mamba classifier and feature extractor: (b, in_chans, h, w) of any h and w.

    Args:
        in_chans: image channels.
        num_classes: classes; 0 leaves the classifier out.
        global_pool: pooling before the classifier, after the normalisation of each pixel.
        depths: blocks of each stage.
        dims: channels of each stage.
        dt_init: initialisation of the step sizes, see `SpatialSSM`.
        mlp_ratio: hidden channels of the MLP over its dim.
        norm_layer: normalisation over channels.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth rate of the last block, rising linearly from 0.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: tuple[int, ...] = (2, 4, 8, 4),
        dims: tuple[int, ...] = (64, 128, 256, 512),
        dt_init: str = "random",
        mlp_ratio: float = 4.0,
        norm_layer: Layer = nn.LayerNorm,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        dd = {"device": device, "dtype": dtype}
        mixer = partial(SpatialSSM, dt_init=dt_init, norm_layer=norm_layer)
        super().__init__(
            ResidualConvStem(in_chans, dims[0], **dd),
            partial(CPEBlock, mixer=mixer, mlp_ratio=mlp_ratio, norm_layer=norm_layer),
            InvertedDownsample,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            patch_size=4,
            depths=depths,
            dims=dims,
            norm_layer=norm_layer,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            **dd,
        )
        for stage in self.stages:  # not what is between them, convolutions in the official code
            stage.get_submodule("blocks").apply(init_linear)
        self.head.apply(init_linear)


OFFICIAL_NAMES = (
    (r"^stem\.", "patch_embed."),
    (r"^(patch_embed\..*)\.bn\.", r"\1.norm."),
    (r"\.blocks\.(\d+)\.norm\.", r".blocks.\1.ln_1."),
    (r"\.norm2\.", ".ln_2."),
    (r"\.op\.", ".self_attention."),
    (r"\.downsample\.conv\.", ".downsample.conv.1.conv."),
    (r"\.downsample\.expand\.", ".downsample.conv.0.conv."),
    (r"\.downsample\.project\.", ".downsample.conv.2.conv."),
    (r"\.downsample\.norm\.", ".downsample.conv.2.norm."),
    (r"^head\.fc\.", "head."),
)


def official_layout(model: SpatialMamba) -> OfficialLayout:
    """Names of the model's parameters in the official code."""
    return staged_layout(model, OFFICIAL_NAMES)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: SpatialMamba) -> dict[str, Any]:
    """Official weights, alone or in a checkpoint, or our own, to our own."""
    return convert_official(state_dict, model, official_layout(model))


def _cfg(file: str) -> dict[str, Any]:
    return imagenet_cfg(
        # what the link of the authors' page leads to; without `confirm` it is a question
        url=f"https://drive.usercontent.google.com/download?id={file}&export=download&confirm=t",
        first_conv="stem.conv1.conv",
        license="apache-2.0",
        paper_ids="arXiv:2410.15091",
        paper_name="Spatial-Mamba: Effective Visual State Space Models via Structure-aware "
        "State Fusion",
        origin_url="https://github.com/EdwardChasel/Spatial-Mamba",
    )


default_cfgs = generate_default_cfgs(
    {
        "spatial_mamba_tiny.in1k": _cfg("19kXoqGSTuKKs4AHbdUSrdKZTwTWenLIW"),
        "spatial_mamba_small.in1k": _cfg("1Wb3sYoWLpgmWrmHMYKwdgDwGPZaqM28O"),
        "spatial_mamba_base.in1k": _cfg("1k8dHp2QRCOqBSgAi36YkhZp_O8LqOPjM"),
    }
)


def _create_spatial_mamba(
    variant: str, pretrained: bool, kwargs: dict[str, Any], **args
) -> SpatialMamba:
    # A cached file is called after its URL's path, which is the same for every file there.
    if pretrained and kwargs.get("cache_dir") is None:
        kwargs["cache_dir"] = get_cache_dir(variant)
    return create_staged(SpatialMamba, checkpoint_filter_fn, variant, pretrained, kwargs, **args)


@register_model
def spatial_mamba_tiny(pretrained: bool = False, **kwargs) -> SpatialMamba:
    """Spatial-Mamba-T: 26.7 M parameters, 83.5 % ImageNet top-1 at 224."""
    return _create_spatial_mamba(
        "spatial_mamba_tiny", pretrained, kwargs, depths=(2, 4, 8, 4), dims=(64, 128, 256, 512)
    )


@register_model
def spatial_mamba_small(pretrained: bool = False, **kwargs) -> SpatialMamba:
    """Spatial-Mamba-S: 43.1 M parameters, 84.6 % ImageNet top-1 at 224."""
    return _create_spatial_mamba(
        "spatial_mamba_small", pretrained, kwargs, depths=(2, 4, 21, 5), dims=(64, 128, 256, 512)
    )


@register_model
def spatial_mamba_base(pretrained: bool = False, **kwargs) -> SpatialMamba:
    """Spatial-Mamba-B: 95.7 M parameters, 85.3 % ImageNet top-1 at 224."""
    return _create_spatial_mamba(
        "spatial_mamba_base", pretrained, kwargs, depths=(2, 4, 21, 5), dims=(96, 192, 384, 768)
    )
