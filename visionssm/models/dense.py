"""Dense backbones: the stage outputs of a model, each with a normalisation of its own."""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import get_device_dtype
from torch import Tensor, nn

from visionssm.layers.typing import Layer

from .official import OfficialLayout
from .staged import StagedModel


class DenseBackbone(nn.Module):
    """(b, c, h, w) image to a list of normalised stage outputs (b, c_i, h_i, w_i).

    Args:
        model: the model whose stages to read.
        out_indices: the stages to return, from 0.
        norm_layer: normalisation over the last axis, one for each stage returned.

    Raises:
        ValueError: an index is not that of a stage.
    """

    def __init__(
        self,
        model: StagedModel,
        out_indices: Sequence[int],
        norm_layer: Layer = nn.LayerNorm,
    ):
        super().__init__()
        channels = [info["num_chs"] for info in model.feature_info]
        if not out_indices or any(not 0 <= i < len(channels) for i in out_indices):
            raise ValueError(
                f"out_indices: expected stages from 0 to {len(channels) - 1}, got {out_indices}"
            )
        self.model = model
        self.out_indices = sorted(set(out_indices))
        for i in self.out_indices:
            norm = norm_layer(channels[i], **get_device_dtype(model))
            self.add_module(f"outnorm{i}", norm)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.model.forward_intermediates(
            x,
            indices=self.out_indices,
            stop_early=True,
            output_fmt="NHWC",
            intermediates_only=True,
        )
        return [
            self.get_submodule(f"outnorm{i}")(m).permute(0, 3, 1, 2).contiguous()
            for i, m in zip(self.out_indices, maps, strict=True)
        ]


def official_backbone(
    model: StagedModel, layout: OfficialLayout, out_indices: Sequence[int]
) -> tuple[DenseBackbone, OfficialLayout]:
    """The dense backbone of a model, as official code makes it: without the final normalisation.

    Args:
        model: without classifier.
        layout: of the model's parameters.
        out_indices: as in `DenseBackbone`, whose normalisations have one name here and there.
    """
    model.norm = nn.Identity()
    names = {f"model.{own}": official for own, official in layout.names.items()}
    return DenseBackbone(model, out_indices), layout._replace(names=names)
