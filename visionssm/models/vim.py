"""Vim

Paper: `Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model`
    - https://arxiv.org/abs/2401.09417
Code and weights: https://github.com/hustvl/Vim, Apache-2.0 licence

A plain sequence of patches like ViT's, with the class token in its middle, whose token mixer scans
from both ends. Blocks have no MLP.
"""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import (
    DropPath,
    LayerScale,
    calculate_drop_path_rates,
    get_device_dtype,
    lecun_normal_,
    to_2tuple,
    trunc_normal_,
)
from timm.models import (
    build_model_with_cfg,
    checkpoint,
    checkpoint_seq,
    generate_default_cfgs,
    register_model,
    register_notrace_function,
    register_notrace_module,
)
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from visionssm.layers import BidirectionalMamba, RmsNormFp32
from visionssm.layers.stem import ImageConv2d
from visionssm.layers.typing import Layer

from .official import OfficialLayout, choose, convert_official, stored_configs_readable

__all__ = ["Vim"]

Grid = tuple[int, int]
RmsNorm = partial(RmsNormFp32, eps=1e-5)
POOLS = ("token", "avg", "")
MIXER_PARTS = {  # our joined parameter -> official parameter of each direction
    "conv_weight": ("conv1d.weight", "conv1d_b.weight"),
    "conv_bias": ("conv1d.bias", "conv1d_b.bias"),
    "x_proj_weight": ("x_proj.weight", "x_proj_b.weight"),
    "dt_proj_weight": ("dt_proj.weight", "dt_proj_b.weight"),
    "dt_proj_bias": ("dt_proj.bias", "dt_proj_b.bias"),
    "A_log": ("A_log", "A_b_log"),
    "D": ("D", "D_b"),
}
OFFICIAL_NAMES = (
    (r"^blocks\.", "layers."),
    (r"^norm\.", "norm_f."),
    (r"\.ls\.gamma$", ".mixer.gamma"),
)


@register_notrace_module  # looks at sizes
class PatchEmbed(nn.Module):
    """Patches, overlapping if stride < patch_size: (b, c, h, w) -> channels-last (b, h', w', dim).

    h' = floor((h - patch_size) / stride) + 1 and so is w'; nothing is padded.

    Args:
        img_size: (height, width) of the images.
        patch_size: side of a patch.
        stride: distance between patches.
        in_chans: image channels c.
        dim: output channels.
        dynamic_img_size: take images of other sizes too.

    Raises:
        ValueError: img_size or an image is smaller than a patch, or an image has another size.
    """

    def __init__(
        self,
        img_size: Grid,
        patch_size: int,
        stride: int,
        in_chans: int,
        dim: int,
        dynamic_img_size: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.patch_size = patch_size
        self.stride = stride
        self.dynamic_img_size = dynamic_img_size
        self.set_img_size(img_size)
        dd = {"device": device, "dtype": dtype}
        self.proj = ImageConv2d(in_chans, dim, patch_size, stride=stride, **dd)

    def set_img_size(self, img_size: Grid) -> None:
        """Expect images of another size from now on."""
        self._check_size("img_size", img_size)
        self.img_size = img_size
        self.grid_size = self.dynamic_feat_size(img_size)

    def dynamic_feat_size(self, img_size: Grid) -> Grid:
        """Rows and columns of patches of an image (height, width)."""
        height, width = img_size
        return (
            (height - self.patch_size) // self.stride + 1,
            (width - self.patch_size) // self.stride + 1,
        )

    def _check_size(self, argument: str, img_size: tuple[int, ...]) -> None:
        if any(size < self.patch_size for size in img_size):
            raise ValueError(
                f"{argument}: expected at least {self.patch_size} pixels a side, got {img_size}"
            )

    def forward(self, x: Tensor) -> Tensor:
        self._check_size("x", tuple(x.shape[2:]))
        if not self.dynamic_img_size and tuple(x.shape[2:]) != self.img_size:
            raise ValueError(
                f"x: expected images of {self.img_size}, got {tuple(x.shape[2:])}; for other sizes "
                "build the model with img_size or dynamic_img_size, or call set_input_size"
            )
        return self.proj(x).permute(0, 2, 3, 1)


class VimBlock(nn.Module):
    """x + mixer(norm(x)): (b, l, dim) to the same, in the dtype of x.

    The official code adds a block's output to the stream at the start of the next block, together
    with that block's stochastic depth; the sums and the rates of each output are those here.

    Args:
        dim: channels.
        mixer: class of the token mixer, called with dim.
        norm_layer: normalisation over channels, whose output has the dtype of its weight.
        init_values: initial scale of the mixer's output; None leaves scaling out.
        drop_path: stochastic depth rate.
    """

    def __init__(
        self,
        dim: int,
        mixer: Layer = BidirectionalMamba,
        norm_layer: Layer = RmsNorm,
        init_values: float | None = None,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm = norm_layer(dim, **dd)
        self.mixer = mixer(dim, **dd)
        self.ls = nn.Identity() if init_values is None else LayerScale(dim, init_values, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.ls(self.mixer(self.norm(x))))


def insert_middle(patches: Tensor, token: Tensor) -> Tensor:
    """Put a token (b, 1, c) before patch floor(m / 2) of m: (b, m, c) -> (b, m + 1, c)."""
    middle = patches.shape[1] // 2
    return torch.cat([patches[:, :middle], token, patches[:, middle:]], dim=1)


def take_middle(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Undo `insert_middle`: (b, m + 1, c) to patches (b, m, c) and token (b, 1, c)."""
    middle = (tokens.shape[1] - 1) // 2
    token = tokens[:, middle : middle + 1]
    return torch.cat([tokens[:, :middle], tokens[:, middle + 1 :]], dim=1), token


@register_notrace_function
def resample_pos_embed(pos_embed: Tensor, old_grid: Grid, new_grid: Grid) -> Tensor:
    """Position embedding (1, m or m + 1, c) for another grid of patches.

    Patches are interpolated bicubically as in the official fine-tuning; the class token's entry, if
    there is one more than patches, stays the class token's. (The official code takes the first
    entry for it, although it is the middle one, and so moves half of the positions by one.) The
    same grid gives the same values; it is no special case, so that sizes can be dynamic in a graph.

    Args:
        pos_embed: embedding of `old_grid`, in token order.
        old_grid: rows and columns of patches that it is for.
        new_grid: those wanted.
    """
    patches, token = pos_embed, None
    if pos_embed.shape[1] > math.prod(old_grid):
        patches, token = take_middle(pos_embed)
    grid = patches.unflatten(1, old_grid).permute(0, 3, 1, 2).float()
    grid = F.interpolate(grid, size=new_grid, mode="bicubic", align_corners=False)
    patches = grid.permute(0, 2, 3, 1).flatten(1, 2).to(pos_embed.dtype)
    return patches if token is None else insert_middle(patches, token)


class Vim(nn.Module):
    """Vim image classifier and feature extractor: (b, in_chans, h, w) images of size `img_size`.

    The residual stream is float32 in a model of any dtype.

    Args:
        img_size: height and width of the images, one number if they are equal.
        patch_size: side of a patch.
        stride: distance between patches; less than patch_size makes them overlap.
        in_chans: image channels.
        num_classes: classes; 0 leaves the classifier out.
        global_pool: what the classifier reads: "token" the class token, "avg" the mean of the
            patches, "" every token.
        embed_dim: channels.
        depth: blocks.
        d_state: state size of the scan.
        class_token: whether there is a class token, in the middle of the sequence.
        average_directions: halve the sum of the two scan directions.
        norm_layer: normalisation over channels, whose output has the dtype of its weight.
        init_values: initial scale of each mixer's output; None leaves scaling out.
        dynamic_img_size: take images of any size, resampling the position embedding at every call.
        drop_rate: dropout before the classifier.
        pos_drop_rate: dropout after the position embedding.
        drop_path_rate: stochastic depth rate of the last block, rising linearly from 0.

    Raises:
        ValueError: an argument is out of its range, or an image has another size; the message names
            it.
    """

    pretrained_cfg: dict[str, Any]  # timm sets it
    output_fmt = "NLC"

    def __init__(
        self,
        img_size: int | Grid = 224,
        patch_size: int = 16,
        stride: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        embed_dim: int = 192,
        depth: int = 24,
        d_state: int = 16,
        class_token: bool = True,
        average_directions: bool = True,
        norm_layer: Layer = RmsNorm,
        init_values: float | None = None,
        dynamic_img_size: bool = False,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.grad_checkpointing = False
        self.patch_embed = PatchEmbed(
            to_2tuple(img_size), patch_size, stride, in_chans, embed_dim, dynamic_img_size, **dd
        )
        num_tokens = math.prod(self.patch_embed.grid_size) + int(class_token)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim, **dd)) if class_token else None
        self._set_pool(global_pool)
        self.pos_embed = nn.Parameter(torch.empty(1, num_tokens, embed_dim, **dd))
        self.pos_drop = nn.Dropout(pos_drop_rate)
        mixer = partial(BidirectionalMamba, d_state=d_state, average=average_directions)
        rates: Any = calculate_drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.Sequential(
            *(VimBlock(embed_dim, mixer, norm_layer, init_values, rate, **dd) for rate in rates)
        )
        self.feature_info = [
            {"num_chs": embed_dim, "reduction": stride, "module": f"blocks.{i}"}
            for i in range(depth)
        ]
        self.norm = norm_layer(embed_dim, **dd)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = _classifier(embed_dim, num_classes, **dd)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise as the official code does what its layers do not initialise so themselves."""
        lecun_normal_(self.patch_embed.proj.weight)
        nn.init.zeros_(self.get_parameter("patch_embed.proj.bias"))
        trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, BidirectionalMamba):  # each adds to the variance of the stream
                nn.init.kaiming_uniform_(module.out_proj.weight, a=math.sqrt(5))
                module.out_proj.weight.div_(math.sqrt(len(self.blocks)))

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay beside vectors and biases, which timm exempts itself.

        ``A_log`` is not among them: the published weights were trained with decay on it.
        """
        return {"pos_embed"} if self.cls_token is None else {"pos_embed", "cls_token"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that group parameters by depth, for layer-wise learning rates."""
        return {
            "stem": r"^cls_token|^pos_embed|^patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    def set_input_size(
        self, img_size: int | Grid | None = None, patch_size: int | Grid | None = None
    ) -> None:
        """Expect images of another size, resampling the position embedding for good.

        Raises:
            ValueError: another patch size is asked for, or the images are smaller than a patch.
        """
        side = self.patch_embed.patch_size
        if patch_size not in (None, side, (side, side)):
            raise ValueError(f"patch_size: expected {side}, got {patch_size}")
        if img_size is None:
            return
        old_grid = self.patch_embed.grid_size
        self.patch_embed.set_img_size(to_2tuple(img_size))
        pos_embed = resample_pos_embed(
            self.pos_embed.detach(), old_grid, self.patch_embed.grid_size
        )
        self.pos_embed = nn.Parameter(pos_embed, requires_grad=self.pos_embed.requires_grad)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The classification layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier; `global_pool` "" removes pooling, None keeps it."""
        if global_pool is not None:
            self._set_pool(global_pool)
        self.num_classes = num_classes
        self.head = _classifier(self.num_features, num_classes, **get_device_dtype(self))

    def _set_pool(self, global_pool: str) -> None:
        choose("global_pool", global_pool, dict.fromkeys(POOLS))
        if global_pool == "token" and self.cls_token is None:
            raise ValueError("global_pool: expected 'avg' or '' without class token, got 'token'")
        self.global_pool = global_pool

    def embed(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) to the tokens that the first block reads (b, l, embed_dim)."""
        x = self.patch_embed(x)
        pos_embed = self.pos_embed
        if self.patch_embed.dynamic_img_size:
            grid = (x.shape[1], x.shape[2])
            pos_embed = resample_pos_embed(pos_embed, self.patch_embed.grid_size, grid)
        x = x.flatten(1, 2)
        if self.cls_token is not None:
            x = insert_middle(x, self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype))
        return self.pos_drop(x + pos_embed).float()

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The residual stream's patches after blocks, as float32 maps.

        Args:
            x: images (b, c, h, w).
            indices: the last n blocks if an integer, those blocks if a list, all if None.
            norm: apply the final normalisation to each of them.
            stop_early: skip the blocks after the last one wanted.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: leave the final features (b, l, c) out of the result.

        Raises:
            ValueError: output_fmt is another one.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt: expected 'NCHW' or 'NHWC', got {output_fmt!r}")
        take_indices, max_index = feature_take_indices(len(self.blocks), indices)
        grid = self.patch_embed.dynamic_feat_size((x.shape[2], x.shape[3]))
        intermediates = []
        x = self.embed(x)
        for i, block in enumerate(self.blocks):
            x = checkpoint(block, x) if self.grad_checkpointing else block(x)
            if i in take_indices:
                out = self.norm(x) if norm else x
                out = out if self.cls_token is None else take_middle(out)[0]
                out = out.unflatten(1, grid)
                if output_fmt == "NCHW":
                    out = out.permute(0, 3, 1, 2).contiguous()
                intermediates.append(out)
            if stop_early and i == max_index:
                break
        if intermediates_only:
            return intermediates
        return self.norm(x), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the intermediates at `indices` do not need; returns them counted from 0."""
        take_indices, max_index = feature_take_indices(len(self.blocks), indices)
        self.blocks = nn.Sequential(*list(self.blocks)[: max_index + 1])
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return take_indices

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) to normalised tokens (b, l, num_features), class token included."""
        x = self.embed(x)
        if self.grad_checkpointing:
            x = checkpoint_seq(self.blocks, x)
        else:
            x = self.blocks(x)
        return self.norm(x)

    def pool(self, x: Tensor) -> Tensor:
        """Tokens (b, l, c) to what the classifier reads (b, c), or all of them (b, l, c)."""
        if self.global_pool == "":
            return x
        if self.cls_token is None:
            return x.mean(dim=1)
        patches, token = take_middle(x)
        return token.squeeze(1) if self.global_pool == "token" else patches.mean(dim=1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (b, l, c) to logits (b, num_classes), or to what the classifier reads."""
        x = self.head_drop(self.pool(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) to logits (b, num_classes)."""
        return self.forward_head(self.forward_features(x))


def _classifier(dim: int, num_classes: int, **dd) -> nn.Module:
    if num_classes == 0:
        return nn.Identity()
    head = nn.Linear(dim, num_classes, **dd)
    trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


def official_layout(model: Vim) -> OfficialLayout:
    """Names of the model's parameters in the official code."""
    names: dict[str, str | tuple[str, ...]] = {}
    for key in model.state_dict():
        official = key
        for own, replacement in OFFICIAL_NAMES:
            official = re.sub(own, replacement, official)
        module, _, parameter = official.rpartition(".")
        parts = MIXER_PARTS.get(parameter) if module.endswith(".mixer") else None
        names[key] = official if parts is None else tuple(f"{module}.{part}" for part in parts)
    return OfficialLayout(names)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: Vim) -> dict[str, Any]:
    """Official weights, or our own, to our own, at the model's image size and stride.

    A model without class token, as dense tasks use it, leaves out that of a published file.
    """
    weights = convert_official(state_dict, model, official_layout(model))
    new_grid = model.patch_embed.grid_size
    cfg = getattr(model, "pretrained_cfg", {})  # timm's; without it, and in its exports, no other
    old_grid = cfg.get("pool_size") or new_grid
    num_tokens = math.prod(old_grid) + int(model.cls_token is not None)
    if model.cls_token is None and isinstance(weights.get("cls_token"), Tensor):
        if getattr(weights.get("pos_embed"), "shape", None) == (1, num_tokens + 1, model.embed_dim):
            del weights["cls_token"]
            weights["pos_embed"] = take_middle(weights["pos_embed"])[0]
    published = getattr(weights.get("pos_embed"), "shape", None) == (1, num_tokens, model.embed_dim)
    if published and new_grid != old_grid:  # any other length is refused as it is loaded
        weights["pos_embed"] = resample_pos_embed(weights["pos_embed"], old_grid, new_grid)
    return weights


def _cfg(url: str, pool_size: Grid = (14, 14)) -> dict[str, Any]:
    return {
        "url": url,
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "fixed_input_size": True,
        "pool_size": pool_size,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
        "paper_ids": "arXiv:2401.09417",
        "paper_name": "Vision Mamba: Efficient Visual Representation Learning with Bidirectional "
        "State Space Model",
        "origin_url": "https://github.com/hustvl/Vim",
    }


TINY = "https://huggingface.co/hustvl/Vim-tiny-midclstok/resolve/main/"
SMALL = "https://huggingface.co/hustvl/Vim-small-midclstok/resolve/main/"
BASE = "https://huggingface.co/hustvl/Vim-base-midclstok/resolve/main/"

default_cfgs = generate_default_cfgs(
    {
        "vim_tiny.in1k": _cfg(TINY + "vim_t_midclstok_76p1acc.pth"),
        "vim_tiny_plus.in1k": _cfg(TINY + "vim_t_midclstok_ft_78p3acc.pth", (27, 27)),
        "vim_small.in1k": _cfg(SMALL + "vim_s_midclstok_80p5acc.pth"),
        "vim_small_plus.in1k": _cfg(SMALL + "vim_s_midclstok_ft_81p6acc.pth", (27, 27)),
        "vim_base.in1k": _cfg(BASE + "vim_b_midclstok_81p9acc.pth"),
    }
)


def _create_vim(variant: str, pretrained: bool, kwargs: dict[str, Any], **args) -> Vim:
    with stored_configs_readable():
        return build_model_with_cfg(
            Vim,
            variant,
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg={"out_indices": 3, "feature_cls": "getter"},
            **{**args, **kwargs},
        )


@register_model
def vim_tiny(pretrained: bool = False, **kwargs) -> Vim:
    """Vim-Ti, 16 x 16 patches: 7.1 M parameters, 76.1 % ImageNet top-1 at 224."""
    return _create_vim("vim_tiny", pretrained, kwargs, embed_dim=192)


@register_model
def vim_tiny_plus(pretrained: bool = False, **kwargs) -> Vim:
    """Vim-Ti+, patches at stride 8: 7.3 M parameters, 78.3 % ImageNet top-1 at 224."""
    return _create_vim("vim_tiny_plus", pretrained, kwargs, embed_dim=192, stride=8)


@register_model
def vim_small(pretrained: bool = False, **kwargs) -> Vim:
    """Vim-S, 16 x 16 patches: 25.8 M parameters, 80.5 % ImageNet top-1 at 224."""
    return _create_vim("vim_small", pretrained, kwargs, embed_dim=384)


@register_model
def vim_small_plus(pretrained: bool = False, **kwargs) -> Vim:
    """Vim-S+, patches at stride 8: 26.0 M parameters, 81.6 % ImageNet top-1 at 224."""
    return _create_vim("vim_small_plus", pretrained, kwargs, embed_dim=384, stride=8)


@register_model
def vim_base(pretrained: bool = False, **kwargs) -> Vim:
    """Vim-B, 16 x 16 patches: 97.6 M parameters, 81.9 % ImageNet top-1 at 224."""
    return _create_vim("vim_base", pretrained, kwargs, embed_dim=768)
