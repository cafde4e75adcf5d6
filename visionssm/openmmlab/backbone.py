"""Every model of ours as the backbone of a detector or segmentor."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import timm
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from timm.models._manipulate import group_with_matcher
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models import DenseBackbone, list_models
from ..pruning import prune
from .checkpoint import load_pretrained


@MODELS.register_module()
class SSMBackbone(DenseBackbone, BaseModule):
    """Images (b, c, h, w) to a tuple of feature maps (b, c_i, h_i, w_i), finest first.

    `out_channels` and `strides` say what the maps are. Images may have any size, another one at
    every call. Parts that no map needs, the classifier above all, are left out, so that every
    parameter gets a gradient.

    Args:
        arch: a name of `visionssm.list_models()`.
        out_indices: the stages to return, from 0; of a plain model (Vim) the blocks. By default
            the last one at each stride: all stages, or the last block.
        frozen_stages: how many stages to freeze, together with the stem before them; 0 is the stem
            alone and -1 nothing. What is frozen stays in evaluation mode. Output norms are trained.
        norm_eval: keep batch normalisation in evaluation mode during training.
        with_cp: recompute activations in the backward pass, to use less memory.
        drop_path_rate: stochastic depth rate of the last block, rising linearly from 0.
        out_norm: layer normalisation of each map, with parameters of its own.
        pruning: arguments of `visionssm.prune`, whose blocks are counted from 0; None keeps every
            token. In the maps, removed tokens are at their places with the features they had last.
        init_cfg: None, or ``dict(type='Pretrained', checkpoint=...)`` with a file or URL. It may
            hold official weights, those of timm or ours, of a classifier or of a whole detector or
            segmentor. What was loaded and what is new is logged.
        arch_options: further arguments of the model, such as ``img_size``.

    Raises:
        ValueError: an argument is out of its range; the model cannot be pruned; or the checkpoint,
            at `init_weights`, is not one of this backbone.
    """

    def __init__(
        self,
        arch: str,
        out_indices: Sequence[int] | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        out_norm: bool = True,
        pruning: Mapping[str, Any] | None = None,
        init_cfg: Mapping[str, Any] | None = None,
        **arch_options: Any,
    ):
        _check_arch(arch)
        _check_init_cfg(init_cfg)
        if "pretrained" in arch_options:
            raise ValueError(
                "pretrained: expected init_cfg=dict(type='Pretrained', checkpoint=...) instead"
            )
        if "features_only" in arch_options:
            raise ValueError("features_only: a backbone gives maps anyway; out_indices says which")
        if not isinstance(out_indices, Sequence | None):
            raise ValueError(f"out_indices: expected None or a list of stages, got {out_indices!r}")
        if not isinstance(pruning, Mapping | None):
            raise ValueError(
                f"pruning: expected None or a dict of arguments of visionssm.prune, got {pruning!r}"
            )
        published: Any = timm.get_pretrained_cfg(arch)
        if published.fixed_input_size:
            arch_options.setdefault("dynamic_img_size", True)
        model: Any = timm.create_model(arch, drop_path_rate=drop_path_rate, **arch_options)
        levels = list(model.feature_info)
        if out_indices is None:
            out_indices = list({info["reduction"]: i for i, info in enumerate(levels)}.values())
        super().__init__(model, out_indices, nn.LayerNorm if out_norm else nn.Identity)
        self.init_cfg = None if init_cfg is None else dict(init_cfg)
        self.arch = arch
        self.arch_options = arch_options
        self.out_channels = [levels[i]["num_chs"] for i in self.out_indices]
        self.strides = [levels[i]["reduction"] for i in self.out_indices]
        model.prune_intermediate_layers(self.out_indices, prune_norm=True, prune_head=True)
        for name, parameter in list(model.named_parameters(recurse=False)):
            if not parameter.requires_grad:  # belonged to what was just pruned
                model.register_parameter(name, None)
        model.set_grad_checkpointing(with_cp)
        if pruning is not None:
            prune(model, **pruning)
        self.norm_eval = norm_eval
        self.frozen_stages = frozen_stages
        self.stages = [info["module"] for info in levels[: self.out_indices[-1] + 1]]
        if not -1 <= frozen_stages <= len(self.stages):
            raise ValueError(
                f"frozen_stages: expected -1 to {len(self.stages)}, got {frozen_stages}"
            )
        self._freeze()

    def init_weights(self) -> None:
        """Load the checkpoint of `init_cfg`, if any; the rest is initialised when it is built."""
        if self.init_cfg is not None:
            load_pretrained(self, self.init_cfg["checkpoint"])
        self.is_init = True

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(super().forward(x))

    def train(self, mode: bool = True) -> SSMBackbone:
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def no_weight_decay(self) -> set[str]:
        """Names of parameters of several dimensions that are trained without weight decay."""
        model: Any = self.model
        return {f"model.{name}" for name in model.no_weight_decay()}

    def layer_ids(self) -> dict[str, int]:
        """Depth of each parameter, by its name: 0 is the stem, output norms come last."""
        model: Any = self.model
        matcher = model.group_matcher()
        ids: Any = group_with_matcher(model.named_parameters(), matcher, reverse=True)
        ids = {f"model.{name}": depth for name, depth in ids.items()}
        last = max(ids.values()) + 1
        return {name: ids.get(name, last) for name, _ in self.named_parameters()}

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        container = self.stages[0].split(".")[0]
        stem = [part for name, part in self.model.named_children() if name != container]
        for parameter in self.model.parameters(recurse=False):
            parameter.requires_grad_(False)
        for part in [*stem, *map(self.model.get_submodule, self.stages[: self.frozen_stages])]:
            part.eval().requires_grad_(False)


def _check_arch(arch: str) -> None:
    names = list_models()
    if arch.split(".")[0] not in names:
        close = difflib.get_close_matches(arch, names, n=3) or names
        raise ValueError(f"arch: expected a model of visionssm, got {arch!r}; near are {close}")


def _check_init_cfg(init_cfg: Mapping[str, Any] | None) -> None:
    if init_cfg is not None and (
        not isinstance(init_cfg, Mapping)
        or init_cfg.keys() != {"type", "checkpoint"}
        or init_cfg["type"] != "Pretrained"
    ):
        raise ValueError(
            "init_cfg: expected None or dict(type='Pretrained', checkpoint=<file or URL>), "
            f"got {init_cfg}"
        )
