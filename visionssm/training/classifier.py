"""A timm model in the dress that mmengine's Runner expects."""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor
from torch._functorch import config as functorch_config

import visionssm.models  # noqa: F401  (registers our models in timm)
from visionssm.pruning import prune


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Any registered timm classifier with cross entropy on hard or soft targets.

    Args:
        network: arguments of `timm.create_model`: `model_name`, `num_classes`, `drop_path_rate`.
        label_smoothing: probability mass spread evenly over all classes.
        grad_checkpointing: recompute activations in the backward pass to save memory.
        compile: compile the network; a dict holds arguments of `torch.compile`.
        activation_memory_budget: share of the activations that a compiled network may keep for the
            backward pass, more than 0; below 1 it recomputes what costs least (PyTorch's setting).
        pruning: arguments of `visionssm.prune`; None leaves all tokens to the network.
        data_preprocessor: config; the default moves batches to the device.

    Raises:
        ValueError: `compile` is neither bool nor dict; or the budget is out of range, or below 1
            without `compile`.
    """

    network: Any

    def __init__(
        self,
        network: dict,
        label_smoothing: float = 0.0,
        grad_checkpointing: bool = False,
        compile: bool | dict = False,
        activation_memory_budget: float = 1.0,
        pruning: dict | None = None,
        data_preprocessor: dict | None = None,
    ) -> None:
        if not isinstance(compile, bool | dict):
            raise ValueError(f"compile={compile!r}: expected True, False or a dict of arguments")
        compiled = compile is not False
        if not 0 < activation_memory_budget <= 1 or (activation_memory_budget < 1 and not compiled):
            raise ValueError(
                f"activation_memory_budget={activation_memory_budget} with compile={compile}: "
                "expected more than 0 and at most 1, and 1 where nothing is compiled"
            )
        super().__init__(data_preprocessor or {"type": "MixupPreprocessor"})
        self.network = timm.create_model(**network)
        if pruning is not None:
            prune(self.network, **pruning)
        self.network.set_grad_checkpointing(grad_checkpointing)
        if compiled:
            self.network.compile(**(compile if isinstance(compile, dict) else {}))
        self.activation_memory_budget = activation_memory_budget
        self.label_smoothing = label_smoothing

    def init_weights(self) -> None:
        """Keep what timm initialised or loaded: mmengine would initialise a second time."""

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor | None = None,
        paths: list[str] | None = None,
        mode: str = "tensor",
    ) -> Tensor | dict[str, Tensor] | list[dict]:
        """Classify a batch.

        Args:
            inputs: (b, 3, h, w).
            targets: labels (b,), or probabilities (b, classes) after mixup.
            paths: b sources of the images; unused, they travel with the batch for messages.
            mode: `tensor`, `loss` or `predict`.

        Returns:
            Logits (b, classes); or `{"loss": scalar}`; or b dicts with `scores` (classes,),
            float32 probabilities on the CPU, and `target`, int.

        Raises:
            ValueError: unknown mode, or no targets where the mode needs them.
        """
        with functorch_config.patch(activation_memory_budget=self.activation_memory_budget):
            logits = self.network(inputs)
        if mode == "tensor":
            return logits
        if targets is None:
            raise ValueError(f"targets=None: expected labels in mode {mode!r}")
        if mode == "loss":
            loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
            return {"loss": loss}
        if mode == "predict":
            scores = torch.softmax(logits.float(), dim=-1).cpu()
            return [
                {"scores": score, "target": target}
                for score, target in zip(scores, targets.tolist(), strict=True)
            ]
        raise ValueError(f"mode={mode!r}: expected 'tensor', 'loss' or 'predict'")
