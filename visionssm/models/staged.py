"""What image models made of stages share: timm's interface around stem, stages and head."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import (
    ClassifierHead,
    calculate_drop_path_rates,
    get_device_dtype,
    trunc_normal_,
)
from timm.models import build_model_with_cfg, checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from visionssm.layers.typing import Layer

from .official import OfficialLayout, stored_configs_readable

M = TypeVar("M", bound=nn.Module)


class Stage(nn.Module):
    """Downsampling, except in the first stage, and blocks.

    (b, h, w, dim) -> (b, h', w', out_dim).

    Args:
        dim: channels of the map.
        out_dim: channels of the blocks.
        block: class of the blocks, called with out_dim and drop_path.
        downsample: class of the downsampling, called with dim and out_dim, or None.
        drop_path: stochastic depth rate of each block.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        block: Layer,
        downsample: Layer | None,
        drop_path: Sequence[float],
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.grad_checkpointing = False
        self.downsample: nn.Module = nn.Identity()
        if downsample is not None:
            self.downsample = downsample(dim, out_dim, **dd)
        self.blocks = nn.Sequential(*(block(out_dim, drop_path=rate, **dd) for rate in drop_path))

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


class StagedModel(nn.Module):
    """Images to stem, stages, normalisation of each pixel, pooling and classifier.

    Maps are channels-last. A stage downsamples at its start, so that its output is a feature map.

    Args:
        stem: (b, in_chans, h, w) to a map of dims[0] channels, whose `stride` it tells.
        block: class of the blocks, see `Stage`; or of those of each stage.
        downsample: class of the downsampling between stages, see `Stage`.
        in_chans: image channels.
        num_classes: classes; 0 leaves the classifier out.
        global_pool: pooling before the classifier, after the normalisation of each pixel.
        patch_size: of the stem.
        depths: blocks of each stage.
        dims: channels of each stage.
        norm_layer: the normalisation before pooling.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth rate of the last block, rising linearly from 0.

    Raises:
        ValueError: dims and depths differ in length.
    """

    output_fmt = "NHWC"

    def __init__(
        self,
        stem: nn.Module,
        block: Layer | Sequence[Layer],
        downsample: Layer,
        *,
        in_chans: int,
        num_classes: int,
        global_pool: str,
        patch_size: int,
        depths: Sequence[int],
        dims: Sequence[int],
        norm_layer: Layer,
        drop_rate: float,
        drop_path_rate: float,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if len(dims) != len(depths):
            raise ValueError(f"dims: expected {len(depths)} stages as in depths, got {dims}")
        dd = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.global_pool = global_pool
        self.num_features = dims[-1]
        self.patch_size = patch_size
        self.stem = stem
        stride: Any = stem.stride
        blocks = block if isinstance(block, Sequence) else [block] * len(dims)
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.stages = nn.Sequential()
        self.feature_info: list[dict[str, Any]] = []
        for i, dim in enumerate(dims):
            in_dim, down = (dims[i - 1], downsample) if i > 0 else (dim, None)
            self.stages.append(Stage(in_dim, dim, blocks[i], down, rates[i], **dd))
            self.feature_info.append(
                {"num_chs": dim, "reduction": stride * 2**i, "module": f"stages.{i}"}
            )
        self.norm: nn.Module = norm_layer(self.num_features, **dd)
        self.head = ClassifierHead(
            self.num_features,
            num_classes,
            pool_type=global_pool,
            drop_rate=drop_rate,
            input_fmt=self.output_fmt,
            **dd,
        )
        self.head_hidden_size = self.head.num_features

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay beside vectors and biases, which timm exempts itself.

        None: the published weights were trained with decay on all matrices, those of decay rates,
        step sizes and fusion kernels among them.
        """
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that group parameters by depth, for layer-wise learning rates."""
        blocks = [
            (r"^stages\.(\d+)\.downsample", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm", (99999,)),
        ]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in the backward pass instead of keeping them."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
    ) -> None:
        """Accept any image size: nothing depends on it. The patch size is part of the weights.

        Raises:
            ValueError: another patch size is asked for.
        """
        if patch_size not in (None, self.patch_size, (self.patch_size, self.patch_size)):
            raise ValueError(f"patch_size: expected {self.patch_size}, got {patch_size}")

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The classification layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier; `global_pool` "" removes pooling, None keeps it."""
        self.num_classes = num_classes
        self.head.reset(
            num_classes, global_pool, in_features=self.num_features, **get_device_dtype(self)
        )
        self.head_hidden_size = self.head.num_features
        if global_pool is not None:
            self.global_pool = global_pool

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Outputs of stages, before the next stage downsamples them.

        Args:
            x: images (b, c, h, w).
            indices: the last n stages if an integer, those stages if a list, all if None.
            norm: apply the final normalisation to the last stage's output.
            stop_early: skip the stages after the last one wanted.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: leave the final features (b, h, w, c) out of the result.

        Raises:
            ValueError: output_fmt is another one.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt: expected 'NCHW' or 'NHWC', got {output_fmt!r}")
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        last = len(self.stages) - 1
        intermediates = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in take_indices:
                out = self.norm(x) if norm and i == last else x
                if output_fmt == "NCHW":
                    out = out.permute(0, 3, 1, 2).contiguous()
                intermediates.append(out)
            if stop_early and i == max_index:
                break
        if intermediates_only:
            return intermediates
        complete = not stop_early or max_index == last  # the norm is sized for the last stage
        return (self.norm(x) if complete else x), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the intermediates at `indices` do not need; returns them counted from 0."""
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        prune_end = max_index < len(self.stages) - 1
        self.stages = nn.Sequential(*list(self.stages)[: max_index + 1])
        if prune_norm or prune_end:
            self.norm = nn.Identity()
        if prune_end:
            self.num_features = self.head_hidden_size = self.feature_info[max_index]["num_chs"]
        if prune_head or prune_end:
            self.reset_classifier(0, "")
        return take_indices

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) to normalised features (b, h', w', num_features)."""
        return self.norm(self.stages(self.stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (b, h', w', c) to logits (b, num_classes), or to what the classifier reads."""
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) to logits (b, num_classes)."""
        return self.forward_head(self.forward_features(x))


def imagenet_cfg(**kwargs: Any) -> dict[str, Any]:
    """timm's description of weights trained on ImageNet-1K at 224, completed by the arguments."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "classifier": "head.fc",
        **kwargs,
    }


def create_staged(
    model_class: type[M],
    filter_fn: Callable[..., dict[str, Any]],
    variant: str,
    pretrained: bool,
    kwargs: dict[str, Any],
    **args,
) -> M:
    """A registered variant as timm builds models.

    Args:
        model_class: of the model.
        filter_fn: state dict and model to a state dict of the model's own names.
        variant: name of the variant, which has a default cfg.
        pretrained: load the weights that the cfg names.
        kwargs: the caller's arguments of the model and of timm's builder.
        args: the variant's own arguments, over which the caller's go.
    """
    with stored_configs_readable():
        return build_model_with_cfg(
            model_class,
            variant,
            pretrained,
            pretrained_filter_fn=filter_fn,
            feature_cfg={
                "out_indices": (0, 1, 2, 3),
                "feature_cls": "getter",
                "flatten_sequential": True,
            },
            **{**args, **kwargs},
        )


def init_linear(module: nn.Module) -> None:
    """Initialise a linear layer as Swin's code does, which many families build on."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def staged_layout(
    model: StagedModel,
    names: Sequence[tuple[str, str]],
    aliases: tuple[tuple[str, str], ...] = (),
) -> OfficialLayout:
    """Names of the parameters in official code, which downsamples at the end of ``layers.i``.

    Args:
        model: the model whose parameters to name.
        names: pattern and replacement, applied to our key in this order.
        aliases: as in `OfficialLayout`.
    """
    classifier = ["head.fc.weight", "head.fc.bias"]  # known even to a model without one
    found = {}
    for key in [*model.state_dict(), *classifier]:
        name = re.sub(
            r"^stages\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample.", key
        )
        name = re.sub(r"^stages\.", "layers.", name)
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        found[key] = name
    return OfficialLayout(found, aliases)
