"""What the tests of the adapters share: small models of every family, tiny inputs."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmcv", reason="needs the openmmlab extra")
pytest.importorskip("mmdet", reason="needs the openmmlab extra")
pytest.importorskip("mmseg", reason="needs the openmmlab extra")

from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from torch import nn

import visionssm.openmmlab  # noqa: F401  registers
from tests.models.test_families import FAMILIES

SMALL = {family: FAMILIES[family].small for family in FAMILIES}
each_family = pytest.mark.parametrize("family", SMALL)
CLASSES = 3


def backbone_cfg(family: str, **kwargs) -> dict:
    arch, sizes = SMALL[family]
    return {"type": "SSMBackbone", "arch": arch, **sizes, **kwargs}


def small_backbone(family: str, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.build(backbone_cfg(family, **kwargs))


def build_in_scope(scope: str, cfg: dict) -> nn.Module:
    """Build as a config of that toolbox does."""
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(cfg)


def detection_batch(height: int, width: int, num_classes: int = CLASSES) -> dict:
    """Two images with two boxes and masks each, as mmdet's data loaders give them."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        boxes = torch.tensor([[4, 6, width / 2, height / 2], [8, 4, width - 6, height - 4]])
        masks = torch.zeros(2, height, width, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int(), strict=True):
            mask[top:bottom, left:right] = 1
        sample = DetDataSample(
            metainfo={
                "img_shape": (height, width),
                "ori_shape": (height, width),
                "scale_factor": (1.0, 1.0),
            }
        )
        sample.gt_instances = InstanceData(
            bboxes=boxes,
            labels=torch.randint(num_classes, (2,), generator=generator),
            masks=BitmapMasks(masks.numpy(), height, width),
        )
        samples.append(sample)
    images = torch.randint(256, (2, 3, height, width), generator=generator, dtype=torch.uint8)
    return {"inputs": list(images), "data_samples": samples}


def segmentation_batch(height: int, width: int, num_classes: int = CLASSES) -> dict:
    """Two images with a label for each pixel, as mmseg's data loaders give them."""
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        sample = SegDataSample(
            metainfo={"img_shape": (height, width), "ori_shape": (height, width)}
        )
        labels = torch.randint(num_classes, (1, height, width), generator=generator)
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    images = torch.randint(256, (2, 3, height, width), generator=generator, dtype=torch.uint8)
    return {"inputs": list(images), "data_samples": samples}
