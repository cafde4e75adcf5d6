"""EfficientVMamba

Paper: `EfficientVMamba: Atrous Selective Scan for Light Weight Visual Mamba`
    - https://arxiv.org/abs/2403.09977
Code: https://github.com/TerryPei/EfficientVMamba, which holds no licence file

A hierarchy of four stages. The blocks of the first two add a selective scan that leaves tokens out
and a convolution, each gated by its channels' means; the last two are inverted residuals. Maps are
channels-last throughout.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers import ConvNormAct, DropPath, Mlp, SEModule
from timm.models import generate_default_cfgs, register_model
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from visionssm.layers import ES2D, SS2D, ConvDownsample, PatchStem
from visionssm.layers.typing import Layer
from visionssm.scans import Scan

from .official import OfficialLayout, choose, convert_official
from .staged import StagedModel, create_staged, imagenet_cfg, init_linear, staged_layout
from .vmamba import OLD_KEYS

__all__ = ["EfficientVMamba"]

SCANNING_STAGES = 2
DOWNSAMPLES: dict[str, Layer] = {
    "merge": PatchMerging,
    "conv": partial(ConvDownsample, kernel_size=2),
}


class ChannelGate(nn.Module):
    """Weigh the channels of a map by what the normalised map is on average: (b, h, w, dim)."""

    def __init__(self, dim: int, norm_layer: Layer = nn.LayerNorm, device=None, dtype=None):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm = norm_layer(dim, **dd)
        self.mlp = Mlp(dim, dim // 8, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mlp(self.norm(x).mean((1, 2), keepdim=True)).sigmoid()


class EVSSBlock(nn.Module):
    """Scan and convolution side by side, behind one gate: (b, h, w, dim) to the same.

    ::

        n = norm(x);  x = x + se(op(n)) + se(conv_branch(n));  x = x + mlp(norm2(x))

    Args:
        dim: channels.
        mixer: class of the token mixer, called with dim.
        mlp_ratio: hidden channels of the MLP over dim; 0 leaves it out.
        norm_layer: normalisation over channels.
        drop_path: stochastic depth rate.

    Source: EfficientVMamba, arXiv 2403.09977, section 3.3 (efficient visual state space block).
    """

    def __init__(
        self,
        dim: int,
        mixer: Layer = ES2D,
        mlp_ratio: float = 0.0,
        norm_layer: Layer = nn.LayerNorm,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm = norm_layer(dim, **dd)
        self.op = mixer(dim, **dd)
        self.conv_branch = nn.Sequential(
            ConvNormAct(dim, dim, 3, groups=dim, bias=True, act_layer=nn.GELU, **dd),
            nn.Conv2d(dim, dim, 1, **dd),
        )
        self.se = ChannelGate(dim, norm_layer, **dd)
        self.norm2 = norm_layer(dim, **dd) if mlp_ratio > 0 else nn.Identity()
        self.mlp = Mlp(dim, int(dim * mlp_ratio), **dd) if mlp_ratio > 0 else None
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm(x)
        convolved = self.conv_branch(n.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.drop_path(self.se(self.op(n)) + self.se(convolved))
        if self.mlp is not None:
            x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


class InvertedResidual(nn.Module):
    """Wide depthwise convolution between two linear ones, and a residual: (b, h, w, dim).

    Like timm's, which rounds the channels between to multiples of 8.

    Args:
        dim: channels; four times as many between, of which an eighth squeezed.
        drop_path: stochastic depth rate.
    """

    def __init__(self, dim: int, drop_path: float = 0.0, device=None, dtype=None):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        mid = 4 * dim
        self.conv_pw = ConvNormAct(dim, mid, 1, **dd)
        self.conv_dw = ConvNormAct(mid, mid, 3, groups=mid, **dd)
        self.se = SEModule(mid, rd_channels=mid // 8, **dd)
        self.conv_pw2 = ConvNormAct(mid, dim, 1, apply_act=False, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_dw(self.conv_pw(x.permute(0, 3, 1, 2)))
        return x + self.drop_path(self.conv_pw2(self.se(y)).permute(0, 2, 3, 1))


class EfficientVMamba(StagedModel):
    """EfficientVMamba classifier and feature extractor: (b, in_chans, h, w) of any h and w.

    Args:
        in_chans: image channels.
        num_classes: classes; 0 leaves the classifier out.
        global_pool: pooling before the classifier, after the normalisation of each pixel.
        patch_size: of the stem, whose stride it is if 4.
        depths: blocks of each stage. The first two stages scan.
        dims: channels of each stage.
        patch_norm: whether the stem normalises.
        downsample: "merge", a linear layer on 2 x 2 neighbours, or "conv", a convolution.
        ssm_ratio: inner channels of the mixer over its dim.
        scan: scan order of `SS2D`, or its name (see `visionssm.scans`); None is `ES2D`, the fast
            form of "atrous". Published weights load under any of four routes that read all
            channels.
        mlp_ratio: hidden channels of the scanning blocks' MLP over dim, 0 leaves the MLP out.
        norm_layer: normalisation over channels.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth rate of the last block, rising linearly from 0.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        patch_size: int = 4,
        depths: tuple[int, ...] = (2, 2, 4, 2),
        dims: tuple[int, ...] = (48, 96, 192, 384),
        patch_norm: bool = True,
        downsample: str = "merge",
        ssm_ratio: float = 2.0,
        scan: str | Scan | None = None,
        mlp_ratio: float = 0.0,
        norm_layer: Layer = nn.LayerNorm,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        dd = {"device": device, "dtype": dtype}
        mixer = ES2D if scan is None else partial(SS2D, scan=scan)
        scanning = partial(
            EVSSBlock,
            mixer=partial(mixer, ssm_ratio=ssm_ratio, norm_layer=norm_layer),
            mlp_ratio=mlp_ratio,
            norm_layer=norm_layer,
        )
        super().__init__(
            PatchStem(
                in_chans, dims[0], patch_size, norm_layer=norm_layer if patch_norm else None, **dd
            ),
            [scanning if i < SCANNING_STAGES else InvertedResidual for i in range(len(dims))],
            partial(choose("downsample", downsample, DOWNSAMPLES), norm_layer=norm_layer),
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            patch_size=patch_size,
            depths=depths,
            dims=dims,
            norm_layer=norm_layer,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            **dd,
        )
        self.apply(init_linear)


OFFICIAL_NAMES = (
    (r"^stem\.conv1\.", "patch_embed.0."),
    (r"^stem\.norm1\.", "patch_embed.2."),
    (r"\.conv_branch\.1\.", ".conv_branch.3."),
    (r"\.conv_branch\.0\.conv\.", ".conv_branch.0."),
    (r"\.conv_branch\.0\.bn\.", ".conv_branch.1."),
    (r"\.se\.mlp\.fc1\.", ".se.global_reduce."),
    (r"\.se\.mlp\.fc2\.", ".se.channel_select."),
    (r"\.se\.fc1\.", ".se.conv_reduce."),
    (r"\.se\.fc2\.", ".se.conv_expand."),
    (r"\.(conv_\w+)\.conv\.", r".\1.0."),
    (r"\.(conv_\w+)\.bn\.", r".\1.1."),
    (r"^norm\.", "classifier.norm."),
    (r"^head\.fc\.", "classifier.head."),
)
OFFICIAL_CONV_DOWNSAMPLE = (
    (r"\.downsample\.conv\.", ".downsample.1."),
    (r"\.downsample\.norm\.", ".downsample.3."),
)
# A moving average of a model that is trained on several devices.
WRAPPED_KEYS = ((r"^(module\.)+", ""),)


def official_layout(model: EfficientVMamba) -> OfficialLayout:
    """Names of the model's parameters in the official code.

    Its stages of inverted residuals are plain sequences: a permutation, the blocks, another
    permutation, the downsampling.
    """
    names = list(OFFICIAL_NAMES)
    if any(isinstance(module, ConvDownsample) for module in model.modules()):
        names += OFFICIAL_CONV_DOWNSAMPLE
    for i, stage in enumerate(model.stages):
        if i < SCANNING_STAGES:
            continue
        depth = len(list(stage.get_submodule("blocks").children()))
        for j in range(depth):
            names.append((rf"^layers\.{i}\.blocks\.{j}\.", f"layers.{i}.{j + 1}."))
        names.append((rf"^layers\.{i}\.downsample\.", f"layers.{i}.{depth + 2}."))
    return staged_layout(model, names, WRAPPED_KEYS + OLD_KEYS)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: EfficientVMamba) -> dict[str, Any]:
    """Official weights, alone, nested or averaged, or our own, to our own."""
    return convert_official(state_dict, model, official_layout(model))


def _cfg(repository: str) -> dict[str, Any]:
    return imagenet_cfg(
        url=f"https://huggingface.co/{repository}/tree/main",  # a page
        hf_hub_id=repository,  # where timm looks for the names that files usually have
        first_conv="stem.conv1",
        license="none given",
        paper_ids="arXiv:2403.09977",
        paper_name="EfficientVMamba: Atrous Selective Scan for Light Weight Visual Mamba",
        origin_url="https://github.com/TerryPei/EfficientVMamba",
    )


default_cfgs = generate_default_cfgs(
    {
        "efficientvmamba_tiny.in1k": _cfg("TerryPei/EfficientVMamba-Tiny"),
        "efficientvmamba_small.in1k": _cfg("TerryPei/EfficientVMamba-Small"),
        "efficientvmamba_base.in1k": _cfg("TerryPei/EfficientVMamba-Base"),
    }
)


def _create_efficientvmamba(
    variant: str, pretrained: bool, kwargs: dict[str, Any], **args
) -> EfficientVMamba:
    return create_staged(EfficientVMamba, checkpoint_filter_fn, variant, pretrained, kwargs, **args)


@register_model
def efficientvmamba_tiny(pretrained: bool = False, **kwargs) -> EfficientVMamba:
    """EfficientVMamba-T: 6.5 M parameters, 76.5 % ImageNet top-1 at 224."""
    return _create_efficientvmamba(
        "efficientvmamba_tiny", pretrained, kwargs, depths=(2, 2, 4, 2), dims=(48, 96, 192, 384)
    )


@register_model
def efficientvmamba_small(pretrained: bool = False, **kwargs) -> EfficientVMamba:
    """EfficientVMamba-S: 11.3 M parameters, 78.7 % ImageNet top-1 at 224."""
    return _create_efficientvmamba(
        "efficientvmamba_small", pretrained, kwargs, depths=(2, 2, 4, 2), dims=(64, 128, 256, 512)
    )


@register_model
def efficientvmamba_base(pretrained: bool = False, **kwargs) -> EfficientVMamba:
    """EfficientVMamba-B: 33.7 M parameters, 81.8 % ImageNet top-1 at 224."""
    return _create_efficientvmamba(
        "efficientvmamba_base", pretrained, kwargs, depths=(2, 2, 9, 2), dims=(96, 192, 384, 768)
    )
