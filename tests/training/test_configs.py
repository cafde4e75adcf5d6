"""The recipes are the published ones."""

import math
from pathlib import Path

import pytest
import timm
import torch
from mmengine.registry import HOOKS, PARAM_SCHEDULERS, RUNNERS, STRATEGIES

from visionssm.training import load_config, train

# drop path rates of the official configs, classification/configs/vssm/*.yaml
DROP_PATH = {
    "vanilla_vmamba_tiny": 0.2,
    "vanilla_vmamba_small": 0.3,
    "vanilla_vmamba_base": 0.5,
    "vmamba_tiny_s2l5": 0.2,
    "vmamba_small_s2l15": 0.3,
    "vmamba_base_s2l15": 0.6,
    "vmamba_tiny_s1l8": 0.2,
    "vmamba_small_s1l20": 0.3,
    "vmamba_base_s1l20": 0.5,
}


def imagenet_config(name: str):
    return load_config(f"configs/classification/{name}_imagenet.py")


def test_every_published_vmamba_has_a_config():
    found = {path.name for path in Path("configs/classification").glob("*_imagenet.py")}
    assert found == {f"{name}_imagenet.py" for name in DROP_PATH}


@pytest.mark.parametrize("name", DROP_PATH)
def test_config_names_a_registered_model_with_its_published_drop_path(name):
    network = imagenet_config(name).model.network
    assert network.to_dict() == {
        "model_name": name,
        "num_classes": 1000,
        "drop_path_rate": DROP_PATH[name],
    }
    assert timm.is_model(name)


def test_recipe_is_the_published_one():
    cfg = imagenet_config("vmamba_tiny_s1l8")
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.weight_decay) == ("AdamW", 0.05)
    assert (optimizer.betas, optimizer.eps) == ((0.9, 0.999), 1e-8)
    assert optimizer.lr == 5e-4 * 1024 / 512
    assert cfg.auto_scale_lr.to_dict() == {"enable": True, "base_batch_size": 1024}
    assert cfg.optim_wrapper.clip_grad.max_norm == 5.0
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.dtype) == ("AmpOptimWrapper", "float16")
    assert cfg.default_hooks.ema.momentum == pytest.approx(1 - 0.9999)
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.model.label_smoothing == 0.1
    mixup = cfg.model.data_preprocessor.mixup
    assert (mixup.mixup_alpha, mixup.cutmix_alpha) == (0.8, 1.0)
    augmentation = cfg.train_dataloader.dataset.transform
    assert augmentation.auto_augment == "rand-m9-mstd0.5-inc1"
    assert augmentation.color_jitter == 0.4
    assert (augmentation.re_prob, augmentation.re_mode) == (0.25, "pixel")
    assert augmentation.interpolation == "bicubic"
    assert cfg.val_dataloader.dataset.transform.crop_pct == 0.875


def test_sharded_training_is_configuration():
    cfg = load_config("configs/classification/vmamba_base_s1l20_imagenet_fsdp.py")
    assert RUNNERS.get(cfg.runner_type).__name__ == "FlexibleRunner"
    assert STRATEGIES.get(cfg.strategy.type).__name__ == "FSDPStrategy"
    assert cfg.optim_wrapper.use_fsdp
    assert all(HOOKS.get(hook.type) for hook in cfg.default_hooks.values())


def test_learning_rate_follows_the_published_curve():
    """Warm-up from 1e-6 over 20 epochs, then half a cosine from 1e-3 to 1e-5 at epoch 300."""
    cfg, steps = imagenet_config("vmamba_base_s1l20"), 10
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedulers = []
    for scheduler in cfg.param_scheduler:
        arguments = {**scheduler, "by_epoch": True, "optimizer": optimizer, "epoch_length": steps}
        arguments.pop("convert_to_iter_based")
        kind = PARAM_SCHEDULERS.get(arguments.pop("type"))
        schedulers.append(kind.build_iter_from_epoch(**arguments))
    rates = []
    for _ in range(300 * steps):
        rates.append(optimizer.param_groups[0]["lr"])
        for scheduler in schedulers:
            scheduler.step()
    assert rates[0] == pytest.approx(1e-6)
    assert rates[10 * steps] == pytest.approx(5e-4, rel=0.01)
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) in (20 * steps - 1, 20 * steps)
    for epoch in (50, 160, 299):
        expected = 1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + math.cos(math.pi * (epoch - 20) / 280))
        assert rates[epoch * steps] == pytest.approx(expected, rel=0.01)


def test_imagenet_recipe_trains_on_a_tiny_imagenet(image_root, tmp_path):
    """The whole recipe on a small network and 32 pixels; float32 where CUDA is missing."""
    cfg = imagenet_config("vmamba_tiny_s1l8")
    for split in ("train", "val", "test"):
        part = cfg[f"{split}_dataloader"]
        part.update(batch_size=8, num_workers=0, persistent_workers=False, pin_memory=False)
        part.dataset.root = str(image_root)
        part.dataset.transform.input_size = (3, 32, 32)
    cfg.merge_from_dict(
        {
            "work_dir": str(tmp_path),
            "model.network.model_name": "vmamba_pico",
            "model.network.num_classes": 3,
            "model.data_preprocessor.mixup.num_classes": 3,
            "train_cfg.max_epochs": 2,
            "param_scheduler": [],
        }
    )
    if not torch.cuda.is_available():
        cfg.optim_wrapper.type = "OptimWrapper"
        cfg.optim_wrapper.pop("dtype")
    train(cfg)
    assert (tmp_path / "summary.json").exists()
