"""VMamba

Paper: `VMamba: Visual State Space Model` - https://arxiv.org/abs/2401.10166
Code and weights: https://github.com/MzeroMiko/VMamba, MIT licence

A hierarchy of four stages like Swin's, whose token mixer is SS2D, a selective scan of the image
along rows and columns in both directions. Maps are channels-last throughout.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers import (
    DropPath,
    GluMlp,
    Mlp,
    get_act_layer,
    get_norm_layer,
)
from timm.models import (
    generate_default_cfgs,
    register_model,
)
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from visionssm.layers import SS2D, ConvDownsample, ConvStem, PatchStem
from visionssm.layers.typing import Layer, LayerOrName
from visionssm.scans import Scan

from .official import OfficialLayout, choose, convert_official
from .staged import StagedModel, create_staged, imagenet_cfg, init_linear, staged_layout

__all__ = ["VMamba"]

STEMS = {"patch": PatchStem, "conv": ConvStem}
DOWNSAMPLES = {
    "merge": PatchMerging,
    "conv2": partial(ConvDownsample, kernel_size=2),
    "conv3": partial(ConvDownsample, kernel_size=3),
}


class VMambaBlock(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm2(x)) where there is an MLP: (b, h, w, dim) to the same.

    Args:
        dim: channels.
        mixer: class of the token mixer, called with dim.
        mlp: class of the MLP, called with dim; None leaves it out.
        norm_layer: normalisation over channels.
        drop_path: stochastic depth rate of each of the two branches.
    """

    def __init__(
        self,
        dim: int,
        mixer: Layer = SS2D,
        mlp: Layer | None = Mlp,
        norm_layer: Layer = nn.LayerNorm,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm = norm_layer(dim, **dd)
        self.op = mixer(dim, **dd)
        self.norm2 = norm_layer(dim, **dd) if mlp is not None else nn.Identity()
        self.mlp = mlp(dim, **dd) if mlp is not None else None
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.op(self.norm(x)))
        if self.mlp is not None:
            x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


class VMamba(StagedModel):
    """VMamba image classifier and feature extractor: (b, in_chans, h, w) of any h and w.

    Args:
        in_chans: image channels.
        num_classes: classes; 0 leaves the classifier out.
        global_pool: pooling before the classifier, after the normalisation of each pixel.
        patch_size: of the stem, whose stride it is if 4 or "patch".
        depths: blocks of each stage.
        dims: channels of each stage.
        stem: "conv", two overlapping convolutions, or "patch", one of kernel `patch_size`.
        patch_norm: whether the stem normalises.
        downsample: "conv3" or "conv2", a convolution of that kernel and stride 2, or "merge",
            a linear layer on 2 x 2 neighbours.
        ssm_d_state: state size of the scan.
        ssm_ratio: inner channels of the mixer over its dim.
        ssm_dt_rank: rank of the step-size projection, "auto" is ceil(dim / 16).
        ssm_conv: kernel of the mixer's depthwise convolution, 1 leaves it out.
        ssm_conv_bias: whether that convolution has a bias.
        ssm_gate: whether the mixer multiplies its output with a gate.
        ssm_gate_act: whether the gate passes through `ssm_act_layer`.
        ssm_act_layer: activation of the mixer.
        ssm_out_act_layer: activation after the mixer's output normalisation, if any.
        ssm_init: initialisation of the scan, see `SS2D`.
        scan: scan order, or its name (see `visionssm.scans`); published weights are of
            "cross_scan", and load under any of four routes that read all channels.
        mlp_ratio: hidden channels of the MLP over its dim, 0 leaves the MLP out.
        gated_mlp: multiply one half of the hidden layer with the activation of another.
        mlp_act_layer: activation of the MLP.
        norm_layer: normalisation over channels.
        drop_rate: dropout before the classifier.
        ssm_drop_rate: dropout after each mixer.
        mlp_drop_rate: dropout inside each MLP.
        drop_path_rate: stochastic depth rate of the last block, rising linearly from 0.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        patch_size: int = 4,
        depths: tuple[int, ...] = (2, 2, 8, 2),
        dims: tuple[int, ...] = (96, 192, 384, 768),
        stem: str = "conv",
        patch_norm: bool = True,
        downsample: str = "conv3",
        ssm_d_state: int = 1,
        ssm_ratio: float = 1.0,
        ssm_dt_rank: int | str = "auto",
        ssm_conv: int = 3,
        ssm_conv_bias: bool = False,
        ssm_gate: bool = False,
        ssm_gate_act: bool = True,
        ssm_act_layer: LayerOrName = "silu",
        ssm_out_act_layer: LayerOrName | None = None,
        ssm_init: str = "v0",
        scan: str | Scan = "cross_scan",
        mlp_ratio: float = 4.0,
        gated_mlp: bool = False,
        mlp_act_layer: LayerOrName = "gelu",
        norm_layer: LayerOrName = nn.LayerNorm,
        drop_rate: float = 0.0,
        ssm_drop_rate: float = 0.0,
        mlp_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        dd = {"device": device, "dtype": dtype}
        norm: Layer = get_norm_layer(norm_layer)
        mixer = partial(
            SS2D,
            d_state=ssm_d_state,
            ssm_ratio=ssm_ratio,
            dt_rank=ssm_dt_rank,
            kernel_size=ssm_conv,
            conv_bias=ssm_conv_bias,
            gate=ssm_gate,
            gate_act=ssm_gate_act,
            act_layer=get_act_layer(ssm_act_layer),
            out_act_layer=get_act_layer(ssm_out_act_layer),
            norm_layer=norm,
            drop=ssm_drop_rate,
            init=ssm_init,
            scan=scan,
        )
        mlp = partial(_mlp, ratio=mlp_ratio, gated=gated_mlp, act=mlp_act_layer, drop=mlp_drop_rate)
        block = partial(
            VMambaBlock, mixer=mixer, mlp=mlp if mlp_ratio > 0 else None, norm_layer=norm
        )

        super().__init__(
            choose("stem", stem, STEMS)(
                in_chans, dims[0], patch_size, norm_layer=norm if patch_norm else None, **dd
            ),
            block,
            partial(choose("downsample", downsample, DOWNSAMPLES), norm_layer=norm),
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            patch_size=patch_size,
            depths=depths,
            dims=dims,
            norm_layer=norm,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            **dd,
        )
        self.apply(init_linear)


def _mlp(dim: int, ratio: float, gated: bool, act: LayerOrName, drop: float, **dd) -> nn.Module:
    hidden, act_layer = int(dim * ratio), get_act_layer(act)
    if gated:
        return GluMlp(dim, 2 * hidden, act_layer=act_layer, drop=(0.0, drop), **dd)
    return Mlp(dim, hidden, act_layer=act_layer, drop=drop, **dd)


# Keys of the earliest weights, the vanilla models, as regular expressions.
OLD_KEYS = (
    (r"^patch_embed\.proj\.", "patch_embed.0."),
    (r"^patch_embed\.norm\.", "patch_embed.2."),
    (r"\.ln_1\.", ".norm."),
    (r"\.self_attention\.", ".op."),
    (r"^norm\.", "classifier.norm."),
    (r"^head\.(weight|bias)$", r"classifier.head.\1"),
)
OFFICIAL_NAMES = (
    (r"^stem\.conv1\.", "patch_embed.0."),
    (r"^stem\.norm1\.", "patch_embed.2."),
    (r"^stem\.conv2\.", "patch_embed.5."),
    (r"^stem\.norm2\.", "patch_embed.7."),
    (r"^norm\.", "classifier.norm."),
    (r"^head\.fc\.", "classifier.head."),
)
OFFICIAL_CONV_DOWNSAMPLE = (
    (r"\.downsample\.conv\.", ".downsample.1."),
    (r"\.downsample\.norm\.", ".downsample.3."),
)


def official_layout(model: VMamba) -> OfficialLayout:
    """Names of the model's parameters in the official code."""
    convolutional = any(isinstance(module, ConvDownsample) for module in model.modules())
    names = OFFICIAL_NAMES + (OFFICIAL_CONV_DOWNSAMPLE if convolutional else ())
    return staged_layout(model, names, OLD_KEYS)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: VMamba) -> dict[str, Any]:
    """Official weights, of any age and nesting, or our own, to our own."""
    return convert_official(state_dict, model, official_layout(model))


def _cfg(url: str = "", license: str = "mit") -> dict[str, Any]:
    return imagenet_cfg(
        url=url,
        first_conv="stem.conv1",
        license=license,
        paper_ids="arXiv:2401.10166",
        paper_name="VMamba: Visual State Space Model",
        origin_url="https://github.com/MzeroMiko/VMamba",
    )


RELEASES = "https://github.com/MzeroMiko/VMamba/releases/download/"
WEIGHTS = {
    "vanilla_vmamba_tiny.in1k": "%23v0cls/vssmtiny_dp01_ckpt_epoch_292.pth",
    "vanilla_vmamba_small.in1k": "%23v0cls/vssmsmall_dp03_ckpt_epoch_238.pth",
    "vanilla_vmamba_base.in1k": "%23v0cls/vssmbase_dp06_ckpt_epoch_241.pth",
    "vmamba_tiny_s2l5.in1k": "%23v2cls/vssm_tiny_0230_ckpt_epoch_262.pth",
    "vmamba_small_s2l15.in1k": "%23v2cls/vssm_small_0229_ckpt_epoch_222.pth",
    "vmamba_base_s2l15.in1k": "%23v2cls/vssm_base_0229_ckpt_epoch_237.pth",
    "vmamba_tiny_s1l8.in1k": "%23v2cls/vssm1_tiny_0230s_ckpt_epoch_264.pth",
    "vmamba_small_s1l20.in1k": "%23v2cls/vssm1_small_0229s_ckpt_epoch_240.pth",
    "vmamba_base_s1l20.in1k": "%23v2cls/vssm1_base_0229s_ckpt_epoch_225.pth",
}

default_cfgs = generate_default_cfgs(
    {
        "vmamba_pico": _cfg(license="apache-2.0"),
        **{name: _cfg(RELEASES + file) for name, file in WEIGHTS.items()},
    }
)


def _create_vmamba(variant: str, pretrained: bool, kwargs: dict[str, Any], **args) -> VMamba:
    return create_staged(VMamba, checkpoint_filter_fn, variant, pretrained, kwargs, **args)


VANILLA: dict[str, Any] = {
    "stem": "patch",
    "downsample": "merge",
    "ssm_d_state": 16,
    "ssm_ratio": 2.0,
    "ssm_conv_bias": True,
    "ssm_gate": True,
    "mlp_ratio": 0.0,
}


@register_model
def vanilla_vmamba_tiny(pretrained: bool = False, **kwargs) -> VMamba:
    """First VMamba-T, without MLPs: 22.9 M parameters, 82.2 % ImageNet top-1 at 224."""
    return _create_vmamba(
        "vanilla_vmamba_tiny",
        pretrained,
        kwargs,
        depths=(2, 2, 9, 2),
        dims=(96, 192, 384, 768),
        **VANILLA,
    )


@register_model
def vanilla_vmamba_small(pretrained: bool = False, **kwargs) -> VMamba:
    """First VMamba-S, without MLPs: 44.4 M parameters, 83.5 % ImageNet top-1 at 224."""
    return _create_vmamba(
        "vanilla_vmamba_small",
        pretrained,
        kwargs,
        depths=(2, 2, 27, 2),
        dims=(96, 192, 384, 768),
        **VANILLA,
    )


@register_model
def vanilla_vmamba_base(pretrained: bool = False, **kwargs) -> VMamba:
    """First VMamba-B, without MLPs: 76.3 M parameters, 83.7 % ImageNet top-1 at 224."""
    return _create_vmamba(
        "vanilla_vmamba_base",
        pretrained,
        kwargs,
        depths=(2, 2, 27, 2),
        dims=(128, 256, 512, 1024),
        **VANILLA,
    )


@register_model
def vmamba_tiny_s2l5(pretrained: bool = False, **kwargs) -> VMamba:
    """VMamba-T, ratio 2, 5 blocks in stage 3: 30.7 M parameters, 82.5 % ImageNet top-1 at 224."""
    return _create_vmamba(
        "vmamba_tiny_s2l5",
        pretrained,
        kwargs,
        depths=(2, 2, 5, 2),
        dims=(96, 192, 384, 768),
        ssm_ratio=2.0,
    )


@register_model
def vmamba_small_s2l15(pretrained: bool = False, **kwargs) -> VMamba:
    """VMamba-S, ratio 2, 15 blocks in stage 3: 50.1 M parameters, 83.6 % ImageNet top-1 at 224."""
    return _create_vmamba(
        "vmamba_small_s2l15",
        pretrained,
        kwargs,
        depths=(2, 2, 15, 2),
        dims=(96, 192, 384, 768),
        ssm_ratio=2.0,
    )


@register_model
def vmamba_base_s2l15(pretrained: bool = False, **kwargs) -> VMamba:
    """VMamba-B, ratio 2, 15 blocks in stage 3: 88.6 M parameters, 83.9 % ImageNet top-1 at 224."""
    return _create_vmamba(
        "vmamba_base_s2l15",
        pretrained,
        kwargs,
        depths=(2, 2, 15, 2),
        dims=(128, 256, 512, 1024),
        ssm_ratio=2.0,
    )


@register_model
def vmamba_tiny_s1l8(pretrained: bool = False, **kwargs) -> VMamba:
    """VMamba-T, ratio 1, 8 blocks in stage 3: 30.2 M parameters, 82.6 % ImageNet top-1 at 224."""
    return _create_vmamba(
        "vmamba_tiny_s1l8", pretrained, kwargs, depths=(2, 2, 8, 2), dims=(96, 192, 384, 768)
    )


@register_model
def vmamba_small_s1l20(pretrained: bool = False, **kwargs) -> VMamba:
    """VMamba-S, ratio 1, 20 blocks in stage 3: 49.0 M parameters, 83.3 % ImageNet top-1 at 224."""
    return _create_vmamba(
        "vmamba_small_s1l20", pretrained, kwargs, depths=(2, 2, 20, 2), dims=(96, 192, 384, 768)
    )


@register_model
def vmamba_base_s1l20(pretrained: bool = False, **kwargs) -> VMamba:
    """VMamba-B, ratio 1, 20 blocks in stage 3: 86.6 M parameters, 83.8 % ImageNet top-1 at 224."""
    return _create_vmamba(
        "vmamba_base_s1l20", pretrained, kwargs, depths=(2, 2, 20, 2), dims=(128, 256, 512, 1024)
    )


@register_model
def vmamba_pico(pretrained: bool = False, **kwargs) -> VMamba:
    """A VMamba small enough to train on a CPU: 1.8 M parameters, no published weights."""
    return _create_vmamba(
        "vmamba_pico", pretrained, kwargs, depths=(1, 1, 2, 1), dims=(32, 64, 128, 256)
    )
