"""A loss that is no number stops the run with all that is needed to look into it."""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from visionssm.training import read_checkpoint

from .helpers import run


@HOOKS.register_module()
class PoisonHook(Hook):
    """Makes the loss of step 9 NaN, as an exploded weight would."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter + 1 == 9:
            self.paths = data_batch["paths"]
            with torch.no_grad():
                runner.model.network.head.fc.bias.fill_(float("nan"))


def test_nan_loss_names_step_files_and_last_good_checkpoint(tiny_config):
    poison = PoisonHook()
    tiny_config.default_hooks.poison = {"type": "PoisonHook"}
    HOOKS.module_dict["PoisonHook"], factory = lambda: poison, HOOKS.module_dict["PoisonHook"]
    try:
        with pytest.raises(FloatingPointError) as error:
            run(tiny_config)
    finally:
        HOOKS.module_dict["PoisonHook"] = factory
    message = str(error.value)
    last = Path(tiny_config.work_dir, "last.pth")
    assert "loss is nan at step 9 (epoch 2, batch 3)" in message
    assert f"Last good checkpoint: {last}\n" in message
    assert len(poison.paths) == 4
    assert all(path in message for path in poison.paths)
    assert all(
        torch.isfinite(value).all() for value in read_checkpoint(last)["state_dict"].values()
    )
