"""The recipes are the published ones."""

import math
from pathlib import Path

import pytest
import timm
import torch
from mmengine.registry import HOOKS, MODELS, PARAM_SCHEDULERS, RUNNERS, STRATEGIES

from visionssm.layers import SS2D
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


SPATIAL_MAMBA = {"spatial_mamba_tiny": 0.2, "spatial_mamba_small": 0.3, "spatial_mamba_base": 0.5}
VSSD = {"vssd_micro": 0.1, "vssd_tiny": 0.2, "vssd_small": 0.4, "vssd_base": 0.6}
EFFICIENTVMAMBA = {f"efficientvmamba_{size}": 0.2 for size in ("tiny", "small", "base")}
VIM = {  # config -> model, of which the plus forms start from the weights; drop path rate
    "vim_tiny": ("vim_tiny", 0.0),
    "vim_small": ("vim_small", 0.05),
    "vim_tiny_plus": ("vim_tiny", 0.0),
    "vim_small_plus": ("vim_small", 0.0),
}
EFFICIENTVIM = {  # config -> epochs
    f"efficientvim_{size}{tag}": epochs
    for size in ("m1", "m2", "m3", "m4")
    for tag, epochs in (("", 300), ("_e450", 450))
}


def imagenet_config(name: str):
    return load_config(f"configs/classification/{name}_imagenet.py")


@pytest.mark.parametrize(
    ("family", "recipes"),
    [
        ("v*mamba_*", DROP_PATH),
        ("spatial_mamba_*", SPATIAL_MAMBA),
        ("vssd_*", VSSD),
        ("efficientvmamba_*", EFFICIENTVMAMBA),
        ("vim_*", VIM),
        ("efficientvim_*", EFFICIENTVIM),
    ],
)
def test_every_published_recipe_has_a_config(family, recipes):
    found = {path.name for path in Path("configs/classification").glob(f"{family}_imagenet.py")}
    assert found == {f"{name}_imagenet.py" for name in recipes}


@pytest.mark.parametrize(
    ("name", "drop_path"),
    [item for rates in (DROP_PATH, SPATIAL_MAMBA, VSSD, EFFICIENTVMAMBA) for item in rates.items()],
)
def test_config_names_a_registered_model_with_its_published_drop_path(name, drop_path):
    network = imagenet_config(name).model.network
    assert network.to_dict() == {
        "model_name": name,
        "num_classes": 1000,
        "drop_path_rate": drop_path,
    }
    assert timm.is_model(name)


@pytest.mark.parametrize(
    "name",
    ["vmamba_tiny_s1l8", "spatial_mamba_tiny", "vssd_small", "vssd_base", "efficientvmamba_small"],
)
def test_recipe_is_the_published_one(name):
    cfg = imagenet_config(name)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.weight_decay) == ("AdamW", 0.05)
    assert (optimizer.betas, optimizer.eps) == ((0.9, 0.999), 1e-8)
    base_rate = 3e-4 if name == "vssd_base" else 5e-4
    assert optimizer.lr == base_rate * 1024 / 512
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


@pytest.mark.parametrize("name", VIM)
def test_vim_configs_name_the_published_models(name):
    model, drop_path = VIM[name]
    plus = {"pretrained": True, "stride": 8} if name.endswith("plus") else {}
    assert imagenet_config(name).model.network.to_dict() == {
        "model_name": model,
        "num_classes": 1000,
        "drop_path_rate": drop_path,
        **plus,
    }


@pytest.mark.parametrize(("name", "images", "epochs", "weight_decay"), [
    ("vim_tiny", 128 * 8, 300, 0.1),
    ("vim_small", 64 * 8, 300, 0.05),
    ("vim_tiny_plus", 128 * 8, 30, 1e-8),
    ("vim_small_plus", 128 * 8, 30, 1e-8),
])  # fmt: skip
def test_vim_recipes_are_the_published_ones(name, images, epochs, weight_decay):
    """vim/scripts/*.sh, defaults of vim/main.py; base rates there are for 512 images a step."""
    cfg = imagenet_config(name)
    assert cfg.train_dataloader.batch_size * 8 == images
    assert cfg.auto_scale_lr.to_dict() == {"enable": True, "base_batch_size": images}
    base_rate = {"vim_tiny": 5e-4, "vim_small": 1e-3}.get(name, 5e-6)
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.lr == pytest.approx(base_rate * images / 512)
    assert (optimizer.type, optimizer.weight_decay) == ("AdamW", weight_decay)
    assert (optimizer.betas, optimizer.eps) == ((0.9, 0.999), 1e-8)
    assert cfg.optim_wrapper.type == "OptimWrapper"
    assert "clip_grad" not in cfg.optim_wrapper
    assert cfg.train_cfg.max_epochs == epochs
    assert bool(cfg.param_scheduler) == (epochs == 300)
    assert cfg.model.label_smoothing == 0.1
    assert cfg.train_dataloader.sampler.sampler.type == "RepeatAugSampler"
    augmentation = cfg.train_dataloader.dataset.transform
    assert augmentation.auto_augment == "rand-m9-mstd0.5-inc1"
    assert (augmentation.color_jitter, augmentation.re_prob) == (0.3, 0.25)


@pytest.mark.parametrize("name", EFFICIENTVIM)
def test_efficientvim_recipes_are_the_published_ones(name):
    cfg = imagenet_config(name)
    size = name.split("_")[1]
    assert cfg.model.network.to_dict() == {
        "model_name": f"ssm_efficientvim_{size}",
        "num_classes": 1000,
    }
    side = timm.get_pretrained_cfg(f"ssm_efficientvim_{size}").input_size[-1]
    for split in ("train", "val", "test"):
        part = cfg[f"{split}_dataloader"]
        assert part.batch_size == 2048 / 8
        assert part.dataset.transform.input_size == (3, side, side)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", 2e-3, 0.05)
    assert (optimizer.betas, optimizer.eps) == ((0.9, 0.999), 1e-8)
    assert cfg.optim_wrapper.clip_grad.max_norm == 0.02
    assert not cfg.auto_scale_lr.enable
    assert cfg.default_hooks.ema.momentum == pytest.approx(1 - 0.9995)
    assert cfg.train_cfg.max_epochs == EFFICIENTVIM[name]
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.end, warm_up.start_factor) == (20, 2e-6 / 2e-3)
    assert (cosine.begin, cosine.end, cosine.T_max) == (20, EFFICIENTVIM[name], cosine.end - 20)
    assert cosine.eta_min_ratio == 2e-5 / 2e-3
    assert cfg.model.label_smoothing == 0.1
    mixup = cfg.model.data_preprocessor.mixup
    assert (mixup.mixup_alpha, mixup.cutmix_alpha) == (0.8, 1.0)
    augmentation = cfg.train_dataloader.dataset.transform
    assert augmentation.auto_augment == "rand-m9-mstd0.5-inc1"
    assert (augmentation.color_jitter, augmentation.re_prob) == (0.4, 0.25)


def test_a_config_names_the_scan():
    cfg = imagenet_config("vmamba_tiny_s1l8")
    cfg.merge_from_dict({"model.network": {"model_name": "vmamba_pico", "scan": "hilbert"}})
    network = MODELS.build(cfg.model).network
    assert {m.scan.name for m in network.modules() if isinstance(m, SS2D)} == {"hilbert"}


@pytest.mark.parametrize("path", sorted(Path("configs/classification").glob("*.py")), ids=str)
def test_every_run_has_a_seed_with_which_it_resumes(path):
    assert load_config(str(path)).randomness.seed is not None


def test_sharded_training_is_configuration():
    cfg = load_config("configs/classification/vmamba_base_s1l20_imagenet_fsdp.py")
    assert RUNNERS.get(cfg.runner_type).__name__ == "FlexibleRunner"
    assert STRATEGIES.get(cfg.strategy.type).__name__ == "FSDPStrategy"
    assert cfg.optim_wrapper.use_fsdp
    assert all(HOOKS.get(hook.type) for hook in cfg.default_hooks.values())


def learning_rates(cfg, steps: int) -> list[float]:
    """The rate at each of 300 epochs' steps, which a scheduler may change every step or epoch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedulers = []
    for scheduler in cfg.param_scheduler:
        arguments = {**scheduler, "by_epoch": True, "optimizer": optimizer}
        kind = PARAM_SCHEDULERS.get(arguments.pop("type"))
        if arguments.pop("convert_to_iter_based", False):
            schedulers.append(kind.build_iter_from_epoch(**arguments, epoch_length=steps))
        else:
            schedulers.append(kind(**arguments))
    rates = []
    for step in range(1, 300 * steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        for scheduler in schedulers:
            if not scheduler.by_epoch or step % steps == 0:
                scheduler.step()
    return rates


def test_vim_learning_rate_is_within_two_percent_of_the_published_curve():
    """Once an epoch: from 1e-6 to 1e-3 in five, then on half a cosine measured from the first."""
    rates = learning_rates(imagenet_config("vim_tiny"), steps=2)
    assert rates[::2] == rates[1::2]
    for epoch, rate in enumerate(rates[::2]):
        expected = 1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + math.cos(math.pi * epoch / 300))
        if epoch < 5:
            expected = 1e-6 + (1e-3 - 1e-6) * epoch / 5
        assert abs(rate - expected) < 0.02 * 1e-3, epoch


def test_learning_rate_follows_the_published_curve():
    """Warm-up from 1e-6 over 20 epochs, then half a cosine from 1e-3 to 1e-5 at epoch 300."""
    steps = 10
    rates = learning_rates(imagenet_config("vmamba_base_s1l20"), steps)
    assert rates[0] == pytest.approx(1e-6)
    assert rates[10 * steps] == pytest.approx(5e-4, rel=0.01)
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) in (20 * steps - 1, 20 * steps)
    for epoch in (50, 160, 299):
        expected = 1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + math.cos(math.pi * (epoch - 20) / 280))
        assert rates[epoch * steps] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("recipe", "network"), [
    ("vmamba_tiny_s1l8", {"model_name": "vmamba_pico"}),
    ("efficientvim_m4", {"embed_dim": (16, 24, 32), "depths": (1, 1, 1)}),
    ("vim_tiny_plus", {"pretrained": False, "depth": 2, "embed_dim": 16, "img_size": 32}),
])  # fmt: skip
def test_imagenet_recipe_trains_on_a_tiny_imagenet(recipe, network, image_root, tmp_path):
    """The whole recipe on a small network and 32 pixels; float32 where CUDA is missing."""
    cfg = imagenet_config(recipe)
    for split in ("train", "val", "test"):
        part = cfg[f"{split}_dataloader"]
        part.update(batch_size=8, num_workers=0, persistent_workers=False, pin_memory=False)
        part.dataset.root = str(image_root)
        part.dataset.transform.input_size = (3, 32, 32)
    cfg.merge_from_dict(
        {
            "work_dir": str(tmp_path),
            "model.network": {**network, "num_classes": 3},
            # repeated augmentation leaves out what does not fill 256 images
            "train_dataloader.sampler.sampler": {"_delete_": True, "type": "DefaultSampler"},
            "model.data_preprocessor.mixup.num_classes": 3,
            "train_cfg.max_epochs": 2,
            "param_scheduler": [],
        }
    )
    if not torch.cuda.is_available():
        cfg.optim_wrapper.type = "OptimWrapper"
        cfg.optim_wrapper.pop("dtype", None)
    train(cfg)
    assert (tmp_path / "summary.json").exists()


def test_the_pruned_fashion_config_fine_tunes_the_other():
    plain = load_config("configs/classification/vim_fashion_mnist.py")
    pruned = load_config("configs/classification/vim_fashion_mnist_pruned.py")
    assert pruned.load_from == f"{plain.work_dir}/best.pth"
    assert pruned.model.network == plain.model.network
    assert pruned.train_dataloader == plain.train_dataloader
    assert len(pruned.param_scheduler) == 1
    model = MODELS.build(pruned.model)
    model.load_state_dict(MODELS.build(plain.model).state_dict())
    assert model.network.pruning.schedule.keep == {2: 0.7, 5: 0.7, 8: 0.7}
