"""VSSD

Paper: `VSSD: Vision Mamba with Non-Causal State Space Duality` - https://arxiv.org/abs/2407.18559
Code and weights: https://github.com/YuHengsss/VSSD, no licence given

A hierarchy of four stages. The mixer of the first three is Mamba-2's without its order: one state
gathers all tokens, and each token reads it. The last stage mixes by self-attention. Maps are
channels-last throughout.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers import Attention, ConvNormAct
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from visionssm.layers import (
    ConvDownsample,
    CPEBlock,
    InvertedDownsample,
    NonCausalSSD,
    ResidualConvStem,
)
from visionssm.layers.stem import reading_images
from visionssm.layers.typing import Layer

from .official import OfficialLayout, choose, convert_official
from .staged import StagedModel, create_staged, imagenet_cfg, init_linear, staged_layout

__all__ = ["VSSD"]


class MapAttention(Attention):
    """Multi-head self-attention among all pixels of a map: (b, h, w, dim) to the same."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # a map needs no mask
        return super().forward(x.flatten(1, 2)).reshape(x.shape)


class PatchNormStem(nn.Module):
    """Patches of 4 x 4, batch and layer normalised: (b, c, h, w) -> (b, h // 4, w // 4, dim)."""

    stride = 4

    def __init__(self, in_chans: int, dim: int, device=None, dtype=None):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        conv = ConvNormAct(in_chans, dim, 4, stride=4, padding=0, act_layer=nn.ReLU, **dd)
        self.conv1 = reading_images(conv)
        self.norm = nn.LayerNorm(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv1(x).permute(0, 2, 3, 1))


STEMS: dict[str, Layer] = {"conv": ResidualConvStem, "patch": PatchNormStem}
DOWNSAMPLES: dict[str, Layer] = {
    "inverted": InvertedDownsample,
    "conv": partial(ConvDownsample, act_layer=nn.ReLU),
}


class VSSD(StagedModel):
    """VSSD classifier and feature extractor: (b, in_chans, h, w) of any h and w.

    Args:
        in_chans: image channels.
        num_classes: classes; 0 leaves the classifier out.
        global_pool: pooling before the classifier, after the normalisation of each pixel.
        depths: blocks of each stage.
        dims: channels of each stage.
        num_heads: heads of each stage's mixers.
        mixers: mixer of each stage, "ssd" or "attention".
        d_state: state size of the SSD.
        expand: inner channels of the SSD over its dim.
        num_groups: groups of heads that share B and C.
        positive: whether a token's weight is -dt A, as in all published models, or dt A.
        mlp_ratio: hidden channels of the MLP over its dim.
        stem: "conv" (five convolutions) or "patch" (one).
        downsample: "inverted" (wide and depthwise) or "conv" (3 x 3).
        norm_layer: normalisation over channels in the blocks and at the end.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth rate of the last block, rising linearly from 0.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: tuple[int, ...] = (2, 4, 8, 4),
        dims: tuple[int, ...] = (64, 128, 256, 512),
        num_heads: tuple[int, ...] = (2, 4, 8, 16),
        mixers: tuple[str, ...] = ("ssd", "ssd", "ssd", "attention"),
        d_state: int = 64,
        expand: int = 2,
        num_groups: int = 1,
        positive: bool = True,
        mlp_ratio: float = 4.0,
        stem: str = "conv",
        downsample: str = "inverted",
        norm_layer: Layer = nn.LayerNorm,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        dd = {"device": device, "dtype": dtype}
        for name, values in (("num_heads", num_heads), ("mixers", mixers)):
            if len(values) != len(depths):
                raise ValueError(
                    f"{name}: expected {len(depths)} stages as in depths, got {values}"
                )
        ssd = partial(
            NonCausalSSD,
            d_state=d_state,
            expand=expand,
            num_groups=num_groups,
            positive=positive,
            norm_layer=norm_layer,
        )
        layers: dict[str, Layer] = {"ssd": ssd, "attention": MapAttention}
        blocks = [
            partial(
                CPEBlock,
                mixer=partial(choose("mixers", mixer, layers), num_heads=heads),
                mlp_ratio=mlp_ratio,
                norm_layer=norm_layer,
            )
            for mixer, heads in zip(mixers, num_heads, strict=True)
        ]
        super().__init__(
            choose("stem", stem, STEMS)(in_chans, dims[0], **dd),
            blocks,
            choose("downsample", downsample, DOWNSAMPLES),
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
    (r"\.blocks\.(\d+)\.norm\.", r".blocks.\1.norm1."),
    (r"\.op\.qkv\.", ".attn.to_qkv."),
    (r"\.op\.proj\.", ".attn.to_out."),
    (r"\.op\.", ".attn."),
    (r"^head\.fc\.", "head."),
)
OFFICIAL_DOWNSAMPLES = {
    "inverted": (
        (r"\.downsample\.conv\.", ".downsample.conv.1.conv."),
        (r"\.downsample\.expand\.", ".downsample.conv.0.conv."),
        (r"\.downsample\.project\.", ".downsample.conv.2.conv."),
        (r"\.downsample\.norm\.", ".downsample.conv.2.norm."),
    ),
    "conv": ((r"\.downsample\.conv\.", ".downsample.conv.0.conv."),),
}


def official_layout(model: VSSD) -> OfficialLayout:
    """Names of the model's parameters in the official code."""
    plain = any(isinstance(module, ConvDownsample) for module in model.modules())
    return staged_layout(
        model, OFFICIAL_NAMES + OFFICIAL_DOWNSAMPLES["conv" if plain else "inverted"]
    )


def checkpoint_filter_fn(state_dict: dict[str, Any], model: VSSD) -> dict[str, Any]:
    """Official weights, alone or in a checkpoint, or our own, to our own."""
    return convert_official(state_dict, model, official_layout(model))


def _cfg(file: str) -> dict[str, Any]:
    return imagenet_cfg(
        url=f"https://huggingface.co/YuhengSSS/VSSD/resolve/main/{file}.pth",
        first_conv="stem.conv1.conv",
        license="none given",
        paper_ids="arXiv:2407.18559",
        paper_name="VSSD: Vision Mamba with Non-Causal State Space Duality",
        origin_url="https://github.com/YuHengsss/VSSD",
    )


default_cfgs = generate_default_cfgs(
    {
        "vssd_micro.in1k": _cfg("vssd_micro_best"),
        "vssd_tiny.in1k": _cfg("vssd_tiny_best_ema"),
        "vssd_tiny.mesa_in1k": _cfg("vssd_tiny_e300_with_mesa"),
        "vssd_small.in1k": _cfg("vssd_small_best_ema"),
        "vssd_small.mesa_in1k": _cfg("vssd_small_e300_with_mesa"),
        "vssd_base.in1k": _cfg("vssd_base_best_ema"),
        "vssd_base.mesa_in1k": _cfg("vssd_base_e300_with_mesa"),
    }
)


def _create_vssd(variant: str, pretrained: bool, kwargs: dict[str, Any], **args) -> VSSD:
    return create_staged(VSSD, checkpoint_filter_fn, variant, pretrained, kwargs, **args)


@register_model
def vssd_micro(pretrained: bool = False, **kwargs) -> VSSD:
    """VSSD-M: 13.5 M parameters, 82.5 % ImageNet top-1 at 224."""
    return _create_vssd(
        "vssd_micro", pretrained, kwargs, depths=(2, 2, 8, 4), dims=(48, 96, 192, 384), d_state=48
    )


@register_model
def vssd_tiny(pretrained: bool = False, **kwargs) -> VSSD:
    """VSSD-T: 24.3 M parameters, 83.6 % ImageNet top-1 at 224; 84.1 % with tag ``mesa_in1k``."""
    return _create_vssd(
        "vssd_tiny", pretrained, kwargs, depths=(2, 4, 8, 4), dims=(64, 128, 256, 512)
    )


@register_model
def vssd_small(pretrained: bool = False, **kwargs) -> VSSD:
    """VSSD-S: 40.1 M parameters, 84.1 % ImageNet top-1 at 224; 84.5 % with tag ``mesa_in1k``."""
    return _create_vssd(
        "vssd_small", pretrained, kwargs, depths=(3, 4, 21, 5), dims=(64, 128, 256, 512)
    )


@register_model
def vssd_base(pretrained: bool = False, **kwargs) -> VSSD:
    """VSSD-B: 88.8 M parameters, 84.7 % ImageNet top-1 at 224; 85.4 % with tag ``mesa_in1k``."""
    return _create_vssd(
        "vssd_base", pretrained, kwargs, depths=(3, 4, 21, 5), dims=(96, 192, 384, 768),
        num_heads=(3, 6, 12, 24),
    )  # fmt: skip
