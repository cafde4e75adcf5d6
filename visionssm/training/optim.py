"""Parameter groups by timm's rules, and bfloat16 training on any device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

DENSE_HEADS = ("rpn_head", "bbox_head")  # of mmdetection's two-stage and one-stage detectors


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
    """Forward pass under `bfloat16_autocast`, on CPU too; bfloat16 needs no loss scaling."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), bfloat16_autocast(model):
            yield


@contextmanager
def bfloat16_autocast(model: Any) -> Iterator[None]:
    """Autocast to bfloat16, with float32 where a detector of mmdetection needs it.

    mmcv's RoIAlign, focal loss and suppression have no bfloat16 kernels, and mmdetection rounds the
    coordinates of regions to the dtype of the maps. So the maps that RoI heads read, and the
    outputs of dense heads, are float32; layers within the heads are autocast as all others are.

    Args:
        model: any model, wrapped for several processes or not.
    """
    model = model.module if is_model_wrapper(model) else model
    parts = []
    if hasattr(model, "roi_head"):
        parts.append(model.neck if getattr(model, "neck", None) is not None else model.backbone)
    parts += [getattr(model, name) for name in DENSE_HEADS if hasattr(model, name)]
    handles = [part.register_forward_hook(_outputs_in_float32) for part in parts]
    try:
        with torch.autocast(next(model.parameters()).device.type, torch.bfloat16):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _outputs_in_float32(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    return tree_map_only(Tensor, lambda x: x.float() if x.is_floating_point() else x, outputs)
