"""Detectors and segmentors on pruned backbones: removed tokens are back in what necks read."""

from __future__ import annotations

import pytest
import torch

from tests.openmmlab.cases import detection_batch, segmentation_batch
from tests.openmmlab.test_configs import SIZE, load, small_model


@pytest.mark.parametrize(
    ("path", "batch"),
    [
        ("configs/segmentation/upernet_vim_tiny_60k_ade20k.py", segmentation_batch),
        ("configs/detection/cascade_mask_rcnn_vim_tiny_100ep_coco.py", detection_batch),
    ],
    ids=["mmseg", "mmdet"],
)
def test_losses_and_gradients(path, batch):
    torch.manual_seed(0)
    cfg = load(path)
    cfg.model.backbone.pruning = dict(keep={0: 0.5, 1: 0.5})
    model = small_model(cfg).train()
    assert model.backbone.model.pruning.schedule.keep == {0: 0.5, 1: 0.5}
    data = model.data_preprocessor(batch(*SIZE), training=True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    missing = [name for name, p in model.backbone.named_parameters() if p.grad is None]
    assert loss.isfinite()
    assert not missing
