"""Stops a run whose loss is no longer a number."""

import math

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Raises `FloatingPointError` at the first NaN or infinite loss.

    The message names the step, the files of the batch and the last good checkpoint. Nothing was
    saved or averaged since: this hook runs before the EMA and before any checkpoint.
    """

    priority = "VERY_HIGH"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        loss = outputs["loss"].item()
        if math.isfinite(loss):
            return
        checkpoint = runner.message_hub.get_info("last_ckpt", "none was saved yet")
        raise FloatingPointError(
            f"loss is {loss} at step {runner.iter + 1} (epoch {runner.epoch + 1}, batch "
            f"{batch_idx + 1}).\nLast good checkpoint: {checkpoint}\nFiles of this batch:\n  "
            + "\n  ".join(_files(data_batch))
        )


def _files(data_batch: dict) -> list[str]:
    """Of a batch of ours, or of mmdetection's or mmsegmentation's."""
    if "data_samples" in data_batch:
        return [sample.img_path for sample in data_batch["data_samples"]]
    return data_batch.get("paths", ["not known: the data set gives no paths"])
