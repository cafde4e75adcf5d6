"""What image models made of stages share: timm's interface around stem, stages and head."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import ClassifierHead, get_device_dtype
from timm.models._features import feature_take_indices
from torch import Tensor, nn


class StagedModel(nn.Module):
    """Images to stem, stages, normalisation of each pixel, pooling and classifier.

    Maps are channels-last. A family's constructor sets the attributes below; a stage downsamples at
    its start and has ``blocks`` and ``grad_checkpointing``, so that its output is a feature map.
    """

    stem: nn.Module  # (b, c, h, w) -> (b, h', w', d)
    stages: nn.Sequential
    norm: nn.Module
    head: ClassifierHead
    feature_info: list[dict[str, Any]]  # num_chs, reduction and module of each stage
    num_features: int
    head_hidden_size: int
    num_classes: int
    global_pool: str
    patch_size: int  # stride of the stem
    output_fmt = "NHWC"

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
