"""Parameter groups with a learning rate that falls with depth, for both toolboxes."""

from __future__ import annotations

from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from .backbone import SSMBackbone


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BackboneLayerDecay:
    """Builds the optimizer of a detector or segmentor whose backbone is an `SSMBackbone`.

    With ``paramwise_cfg=dict(decay_rate=r)`` a block's learning rate is r times that of the block
    after it, down to the stem; neck, heads and output norms have the full rate. Vectors, biases and
    what the backbone's `no_weight_decay` names are not decayed, in the whole model.

    Raises:
        ValueError: another key in `paramwise_cfg`, an optimizer without `lr`, or, when called, a
            model with another backbone.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.wrapper_cfg = {"type": "OptimWrapper", **optim_wrapper_cfg}
        self.optimizer_cfg = dict(self.wrapper_cfg.pop("optimizer"))
        if "lr" not in self.optimizer_cfg:
            raise ValueError(f"optimizer: expected an explicit lr, got {self.optimizer_cfg}")
        paramwise = dict(paramwise_cfg or {})
        if paramwise.keys() != {"decay_rate"}:
            raise ValueError(f"paramwise_cfg: expected dict(decay_rate=...), got {paramwise}")
        self.decay_rate: float = paramwise["decay_rate"]

    def __call__(self, model: Any) -> OptimWrapper:
        groups = self._groups(model.module if is_model_wrapper(model) else model)
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, "params": groups})
        return OPTIM_WRAPPERS.build({**self.wrapper_cfg, "optimizer": optimizer})

    def _groups(self, model: nn.Module) -> list[dict[str, Any]]:
        backbone = getattr(model, "backbone", None)
        if not isinstance(backbone, SSMBackbone):
            raise ValueError(
                f"model.backbone: expected an SSMBackbone, got {type(backbone).__name__}"
            )
        depths = {f"backbone.{name}": depth for name, depth in backbone.layer_ids().items()}
        exempt = {f"backbone.{name}" for name in backbone.no_weight_decay()}
        last = max(depths.values())
        groups: dict[tuple[int, bool], dict[str, Any]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            depth = depths.get(name, last)
            decayed = parameter.ndim > 1 and not name.endswith(".bias") and name not in exempt
            if (depth, decayed) not in groups:
                rate = self.optimizer_cfg["lr"] * self.decay_rate ** (last - depth)
                groups[depth, decayed] = {"params": [], "lr": rate}
                if not decayed:
                    groups[depth, decayed]["weight_decay"] = 0.0
            groups[depth, decayed]["params"].append(parameter)
        return list(groups.values())
