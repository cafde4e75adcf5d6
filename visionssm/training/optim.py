"""Parameter groups by timm's rules, and bfloat16 training on any device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TimmParamGroups:
    """Builds the optimizer on timm's parameter groups of an `ImageClassifier`.

    Biases, one-dimensional parameters and those that the network's `no_weight_decay()` names are
    not decayed. With `paramwise_cfg=dict(layer_decay=r)` a layer's learning rate is r times
    that of the layer after it, layers being those of the network's `group_matcher()`.

    Raises:
        ValueError: another key in `paramwise_cfg`, or an optimizer config without `lr`.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.wrapper_cfg.pop("optimizer"))
        if "lr" not in self.optimizer_cfg:
            raise ValueError(f"optimizer={self.optimizer_cfg}: expected an explicit lr")
        paramwise = dict(paramwise_cfg or {})
        self.layer_decay = paramwise.pop("layer_decay", None)
        if paramwise:
            raise ValueError(f"paramwise_cfg has {sorted(paramwise)}: expected only 'layer_decay'")

    def __call__(self, model: Any) -> OptimWrapper:
        params = self._groups((model.module if is_model_wrapper(model) else model).network)
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, "params": params})
        return OPTIM_WRAPPERS.build({**self.wrapper_cfg, "optimizer": optimizer})

    def _groups(self, network: Any) -> list[dict]:
        weight_decay = self.optimizer_cfg.get("weight_decay", 0.0)
        skip = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
        if self.layer_decay is None:
            return param_groups_weight_decay(network, weight_decay, no_weight_decay_list=skip)
        groups = param_groups_layer_decay(
            network, weight_decay, no_weight_decay_list=skip, layer_decay=self.layer_decay
        )
        for group in groups:
            group["lr"] = self.optimizer_cfg["lr"] * group.pop("lr_scale")
        return groups


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Forward pass under bfloat16 autocast, on CPU too; bfloat16 needs no loss scaling."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield
