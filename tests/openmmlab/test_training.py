"""The demos in small: detection and segmentation trained by the same tools as classification."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.openmmlab.cases import CLASSES  # noqa: F401  skips without the toolboxes
from tests.training.helpers import run, unformatted
from tools import make_demo_data as demo_data
from visionssm.training import load_config, read_checkpoint, train
from visionssm.training import test as evaluate
from visionssm.training.hooks.metrics_log import read_metrics

DETECTION = "configs/detection/mask_rcnn_vmamba_pico_demo.py"
SEGMENTATION = "configs/segmentation/upernet_vmamba_pico_demo.py"
each_task = pytest.mark.parametrize("path", [DETECTION, SEGMENTATION], ids=["detect", "segment"])
SCENES = 2
WIDTHS = {"in_channels", "out_channels", "feat_channels", "conv_out_channels"}
REGIONS = dict(
    nms_pre=200, max_per_img=100, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Of a quarter of the demos' area."""
    folder = tmp_path_factory.mktemp("demo") / "scenes"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in dict(HEIGHT=160, WIDTH=192, DIGITS=(2, 6)).items():
            patch.setattr(demo_data, name, value)
        demo_data.make_demo_data(folder, {"train": SCENES, "val": 1, "test": 3})
    return folder


def narrow(cfg) -> None:
    """Halve the channels of a neck and of heads."""
    for key, value in cfg.items():
        if key in WIDTHS and value == 128:
            cfg[key] = 64
        elif isinstance(value, dict):
            narrow(value)


def small(path: str, scenes: Path, work_dir: Path, repeats: int = 1):
    """For small scenes at half their resolution; validated on the scenes that an epoch repeats."""
    cfg = unformatted(load_config(path, str(work_dir)))
    if path == DETECTION:
        narrow(cfg.model)
        cfg.model.train_cfg.rpn_proposal = cfg.model.test_cfg.rpn = REGIONS
        cfg.model.train_cfg.rcnn.sampler.num = 32
    else:
        cfg.model.backbone.patch_size = 4
        cfg.model.decode_head.channels = 64
        cfg.model.data_preprocessor.size = (80, 96)
    cfg.model.backbone.drop_path_rate = 0.0
    cfg.val_dataloader.dataset = {**cfg.train_dataloader.dataset, "test_mode": True}
    cfg.val_dataloader.dataset.pipeline = cfg.test_dataloader.dataset.pipeline
    for name in ("train", "val", "test"):
        loader = cfg[f"{name}_dataloader"]
        for step in loader.dataset.pipeline:
            if step.type == "Resize":
                step.scale = (96, 80)
        loader.update(num_workers=0, persistent_workers=False, batch_size=SCENES)
        loader.dataset.data_root = str(scenes)
        if path == DETECTION and name != "train":
            split = "train" if name == "val" else name
            cfg[f"{name}_evaluator"].ann_file = f"{scenes}/annotations/instances_{split}.json"
    if repeats > 1:
        training = cfg.train_dataloader
        training.dataset = dict(type="RepeatDataset", times=repeats, dataset=training.dataset)
    return cfg


SHORT_RUNS = {  # steps, learning rate, and the least that validation must report in the end
    DETECTION: (40, 2e-3, {"coco/bbox_mAP": 0.2, "coco/segm_mAP": 0.08}),
    SEGMENTATION: (60, 5e-3, {"mIoU": 14.0}),  # on background alone 8
}


@each_task
def test_metrics_rise(path, scenes, tmp_path):
    """A short run on two scenes; what it leaves is there, and the best weights are tested."""
    steps, rate, least = SHORT_RUNS[path]
    cfg = small(path, scenes, tmp_path, repeats=steps // 2)
    cfg.train_cfg.update(max_epochs=2, val_interval=1)
    cfg.optim_wrapper.optimizer.lr = rate
    for scheduler in cfg.param_scheduler:
        scheduler.update(by_epoch=False, convert_to_iter_based=False)
    cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = 4
    cfg.default_hooks.ema.momentum = 0.1
    train(cfg)
    first, last = (line["val"] for line in read_metrics(tmp_path) if "val" in line)
    for name, value in least.items():
        assert last[name] > max(first[name], value), (first, last)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["test"].keys() >= least.keys()
    assert summary["model"].endswith(" on vmamba_pico")
    assert (summary["epochs"], summary["steps"]) == (2, steps)
    for name in ("curves.png", "predictions.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 300


@each_task
def test_resumed_run_equals_an_uninterrupted_one(path, scenes, tmp_path):
    """With flips drawn for every sample, averaged weights, and sampled regions."""
    losses = {}
    for name, stop in (("whole", None), ("cut", 2), ("cut", None)):
        cfg = small(path, scenes, tmp_path / name)
        cfg.train_dataloader.dataset.pipeline.insert(3, dict(type="RandomFlip", prob=0.5))
        cfg.train_dataloader.batch_size = 1
        cfg.train_cfg.update(max_epochs=2, val_interval=9)
        cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = 1
        cfg.default_hooks.checkpoint.interval_iters = 1
        _, found = run(cfg, record={"stop": stop}, resume=stop is None and name == "cut")
        losses.setdefault(name, []).append(found)
    (whole,), (first, rest) = losses["whole"], losses["cut"]
    assert len(whole) == 4
    assert 0 < len(rest) < 4
    assert first[: 4 - len(rest)] + rest == whole
    one, other = (read_checkpoint(tmp_path / name / "last.pth") for name in losses)
    for part in ("state_dict", "ema_state_dict"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])


def test_two_processes_train_a_detector_in_bfloat16_and_one_tests_it(scenes, tmp_path):
    """`torchrun tools/train.py --amp`, through gloo, then the averaged weights in this process."""
    cfg = small(DETECTION, scenes, tmp_path / "run", repeats=2)
    cfg.model.test_cfg.rcnn.score_thr = 0.0  # two steps teach no certainty
    cfg.train_dataloader.batch_size = 1
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.param_scheduler = []
    cfg.dump(tmp_path / "config.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["tools/train.py", str(tmp_path / "config.py"), "--amp", "--launcher", "pytorch"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "BFloat16OptimWrapper" in (tmp_path / "run" / "config.py").read_text()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["processes"], summary["steps"]) == (2, 2)
    cfg.work_dir = str(tmp_path / "again")
    assert evaluate(cfg, str(tmp_path / "run" / "best.pth")) == pytest.approx(summary["test"])
    best, last = (read_checkpoint(tmp_path / "run" / f"{name}.pth") for name in ("best", "last"))
    for name, averaged in best["state_dict"].items():
        assert torch.equal(averaged, last["state_dict"][name])
    name = "backbone.outnorm0.weight"
    assert not torch.equal(last["state_dict"][name], last["ema_state_dict"][f"module.{name}"])
