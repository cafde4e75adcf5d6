"""A tiny image folder and a training config around it, small enough to run in a second."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from .helpers import unformatted

CLASSES = ("cat", "dog", "owl")
SIZE = {"input_size": (3, 32, 32), "interpolation": "bilinear"}
AUGMENTATION = {"is_training": True, "auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.5, **SIZE}
EVALUATION = {"crop_pct": 1.0, **SIZE}


def write_images(folder: Path, per_class: int, seed: int) -> None:
    """Write noise whose mean colour tells the class, as PNG files."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 120, (40, 36, 3), dtype=np.uint8)
            pixels[..., label] += 100
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")


@pytest.fixture(scope="session")
def image_root(tmp_path_factory) -> Path:
    """Folders `train` (3 x 8 images) and `val` (3 x 5, so that two processes get uneven shares)."""
    root = tmp_path_factory.mktemp("images")
    write_images(root / "train", 8, seed=0)
    write_images(root / "val", 5, seed=1)
    return root


def loader(root: Path, split: str, **changes) -> dict:
    training = split == "train"
    order = {"type": "DefaultSampler", "shuffle": training}
    return {
        "batch_size": 4,
        "num_workers": 0,
        "drop_last": training,
        "sampler": {"type": "SeededSampler", "sampler": order} if training else order,
        "collate_fn": {"type": "default_collate"},
        "dataset": {
            "type": "ImageFiles",
            "root": str(root),
            "split": split,
            "transform": AUGMENTATION if training else EVALUATION,
        },
        **changes,
    }


@pytest.fixture
def tiny_config(image_root, tmp_path) -> Iterator[Config]:
    """Three epochs of six steps with everything that draws random numbers switched on."""
    base = unformatted(Config.fromfile("configs/_base_/runtime.py"))
    hooks = {
        "logger": {"type": "LoggerHook", "interval": 2},
        "ema": {"type": "EMAHook", "momentum": 0.1},
    }
    recipe = {
        "work_dir": str(tmp_path / "run"),
        "launcher": "none",
        "env_cfg": {"cudnn_benchmark": False},  # it may choose other kernels run by run
        "randomness": {"seed": 0, "deterministic": True},
        "model": {
            "type": "ImageClassifier",
            "network": {
                "model_name": "test_convnext",
                "num_classes": 3,
                "drop_path_rate": 0.3,
            },
            "label_smoothing": 0.1,
            "data_preprocessor": {
                "type": "MixupPreprocessor",
                "mixup": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "num_classes": 3},
            },
        },
        "train_dataloader": loader(image_root, "train"),
        "val_dataloader": loader(image_root, "val"),
        "test_dataloader": loader(image_root, "val"),
        "train_cfg": {"type": "ResumableEpochLoop", "max_epochs": 3},
        "optim_wrapper": {
            "type": "OptimWrapper",
            "constructor": "TimmParamGroups",
            "optimizer": {"type": "AdamW", "lr": 2e-3, "weight_decay": 0.05},
            "clip_grad": {"max_norm": 5.0},
        },
        "param_scheduler": [
            {"type": "LinearLR", "start_factor": 0.1, "end": 1, "convert_to_iter_based": True},
            {
                "type": "CosineAnnealingLR",
                "eta_min_ratio": 0.01,
                "begin": 1,
                "end": 3,
                "T_max": 2,
                "convert_to_iter_based": True,
            },
        ],
    }
    base.merge_from_dict({**copy.deepcopy(recipe), "default_hooks": hooks})
    yield base
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
