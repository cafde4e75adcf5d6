"""Moves a batch to the device and mixes training batches."""

from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS
from timm.data import Mixup


@MODELS.register_module()
class MixupPreprocessor(BaseDataPreprocessor):
    """timm's Mixup and CutMix on the device, or nothing but the move without `mixup`.

    Label smoothing belongs to the loss (`ImageClassifier`), where it equals timm's smoothing of
    mixed targets because both are linear in the target.

    Args:
        mixup: arguments of `timm.data.Mixup` except `label_smoothing`.

    Raises:
        ValueError: a training batch of odd size, which cannot be mixed in pairs.
    """

    def __init__(self, mixup: dict | None = None) -> None:
        super().__init__()
        self.mixup = Mixup(**mixup, label_smoothing=0.0) if mixup else None

    def forward(self, data: dict, training: bool = False) -> dict:
        """Map inputs (b, 3, h, w), targets (b,) to the same, or to soft targets (b, classes)."""
        data = self.cast_data(data)
        if not (training and self.mixup):
            return data
        if len(data["inputs"]) % 2:
            raise ValueError(
                f"batch of {len(data['inputs'])} images: mixup needs an even batch size "
                "and drop_last=True"
            )
        inputs, targets = self.mixup(data["inputs"], data["targets"])
        return {**data, "inputs": inputs, "targets": targets}
