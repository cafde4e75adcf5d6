"""What papers and official repositories publish about the models here; nothing measured by us.

FLOPs are as the source prints them. It counts a multiply-add of a matrix product or a convolution
once, where `count_flops` counts two, and the scan's operations as `count_flops` does. A source that
prints none has a dash.
"""

from __future__ import annotations

from typing import NamedTuple

import timm
from timm.models import PretrainedCfg


class Classification(NamedTuple):
    """ImageNet-1K at the size of the pretrained cfg."""

    model: str  # with a tag, "name.tag", if the weights are not the name's first
    published_name: str
    top1: float
    parameters: str
    flops: str


class Detection(NamedTuple):
    """COCO val2017; AP of boxes and of masks."""

    model: str
    detector: str
    parameters: str
    flops: str
    box_ap: float
    mask_ap: float


class Segmentation(NamedTuple):
    """ADE20K validation; mIoU at a single scale and at multiple scales."""

    model: str
    segmentor: str
    parameters: str
    flops: str
    miou: float
    miou_multi_scale: float


class Published(NamedTuple):
    """All figures of one family, and where they stand."""

    source: str
    classification: tuple[Classification, ...]
    detection: tuple[Detection, ...]
    segmentation: tuple[Segmentation, ...]


VMAMBA = Published(
    source="https://github.com/MzeroMiko/VMamba/blob/2ed52ea/assets/performance.md",
    classification=(
        Classification("vanilla_vmamba_tiny", "Vanilla-VMamba-T", 82.2, "23M", "5.6G"),
        Classification("vanilla_vmamba_small", "Vanilla-VMamba-S", 83.5, "44M", "11.2G"),
        Classification("vanilla_vmamba_base", "Vanilla-VMamba-B", 83.7, "76M", "18.0G"),
        Classification("vmamba_tiny_s2l5", "VMamba-T[s2l5]", 82.5, "31M", "4.9G"),
        Classification("vmamba_small_s2l15", "VMamba-S[s2l15]", 83.6, "50M", "8.7G"),
        Classification("vmamba_base_s2l15", "VMamba-B[s2l15]", 83.9, "89M", "15.4G"),
        Classification("vmamba_tiny_s1l8", "VMamba-T[s1l8]", 82.6, "30M", "4.9G"),
        Classification("vmamba_small_s1l20", "VMamba-S[s1l20]", 83.3, "49M", "8.6G"),
        Classification("vmamba_base_s1l20", "VMamba-B[s1l20]", 83.8, "87M", "15.2G"),
    ),
    detection=(
        Detection("vanilla_vmamba_tiny", "Mask R-CNN 1x", "42M", "286G", 46.5, 42.1),
        Detection("vanilla_vmamba_small", "Mask R-CNN 1x", "64M", "400G", 48.2, 43.0),
        Detection("vanilla_vmamba_base", "Mask R-CNN 1x", "96M", "540G", 48.6, 43.3),
        Detection("vmamba_tiny_s2l5", "Mask R-CNN 1x", "50M", "270G", 47.4, 42.7),
        Detection("vmamba_small_s2l15", "Mask R-CNN 1x", "70M", "384G", 48.7, 43.7),
        Detection("vmamba_base_s2l15", "Mask R-CNN 1x", "108M", "485G", 49.2, 44.1),
        Detection("vmamba_base_s2l15", "Mask R-CNN 1x, batch 8", "108M", "485G", 49.2, 43.9),
        Detection("vmamba_tiny_s1l8", "Mask R-CNN 1x", "50M", "271G", 47.3, 42.7),
        Detection("vanilla_vmamba_tiny", "Mask R-CNN 3x", "42M", "286G", 48.5, 43.2),
        Detection("vanilla_vmamba_small", "Mask R-CNN 3x", "64M", "400G", 49.7, 44.0),
        Detection("vmamba_tiny_s2l5", "Mask R-CNN 3x", "50M", "270G", 48.9, 43.7),
        Detection("vmamba_small_s2l15", "Mask R-CNN 3x", "70M", "384G", 49.9, 44.2),
        Detection("vmamba_tiny_s1l8", "Mask R-CNN 3x", "50M", "271G", 48.8, 43.7),
    ),
    segmentation=(
        Segmentation("vanilla_vmamba_tiny", "UPerNet 160k", "55M", "964G", 47.3, 48.3),
        Segmentation("vanilla_vmamba_small", "UPerNet 160k", "76M", "1081G", 49.5, 50.5),
        Segmentation("vanilla_vmamba_base", "UPerNet 160k", "110M", "1226G", 50.0, 51.3),
        Segmentation("vmamba_tiny_s2l5", "UPerNet 160k", "62M", "948G", 48.3, 48.6),
        Segmentation("vmamba_small_s2l15", "UPerNet 160k", "82M", "1028G", 50.6, 51.2),
        Segmentation("vmamba_base_s2l15", "UPerNet 160k", "122M", "1170G", 51.0, 51.6),
        Segmentation("vmamba_tiny_s1l8", "UPerNet 160k", "62M", "949G", 47.9, 48.8),
    ),
)
VIM = Published(
    source="https://github.com/hustvl/Vim/blob/dd0358a/README.md",
    classification=(
        Classification("vim_tiny", "Vim-tiny", 76.1, "7M", "-"),
        Classification("vim_tiny_plus", "Vim-tiny+", 78.3, "7M", "-"),
        Classification("vim_small", "Vim-small", 80.5, "26M", "-"),
        Classification("vim_small_plus", "Vim-small+", 81.6, "26M", "-"),
        Classification("vim_base", "Vim-base", 81.9, "98M", "-"),
    ),
    detection=(),
    segmentation=(),
)
SPATIAL_MAMBA = Published(
    source="https://github.com/EdwardChasel/Spatial-Mamba/blob/71221eb/README.md",
    classification=(
        Classification("spatial_mamba_tiny", "Spatial-Mamba-T", 83.5, "27M", "4.5G"),
        Classification("spatial_mamba_small", "Spatial-Mamba-S", 84.6, "43M", "7.1G"),
        Classification("spatial_mamba_base", "Spatial-Mamba-B", 85.3, "96M", "15.8G"),
    ),
    detection=(
        Detection("spatial_mamba_tiny", "Mask R-CNN 1x", "46M", "261G", 47.6, 42.9),
        Detection("spatial_mamba_small", "Mask R-CNN 1x", "63M", "315G", 49.2, 44.0),
        Detection("spatial_mamba_base", "Mask R-CNN 1x", "115M", "494G", 50.4, 45.1),
        Detection("spatial_mamba_tiny", "Mask R-CNN 3x", "46M", "261G", 49.3, 43.6),
        Detection("spatial_mamba_small", "Mask R-CNN 3x", "63M", "315G", 50.5, 44.6),
    ),
    segmentation=(
        Segmentation("spatial_mamba_tiny", "UPerNet 160k", "57M", "936G", 48.6, 49.4),
        Segmentation("spatial_mamba_small", "UPerNet 160k", "73M", "992G", 50.6, 51.4),
        Segmentation("spatial_mamba_base", "UPerNet 160k", "127M", "1176G", 51.8, 52.6),
    ),
)
VSSD = Published(
    source="https://github.com/YuHengsss/VSSD/blob/87b753b/README.md",
    classification=(
        Classification("vssd_micro", "VSSD-M", 82.5, "14M", "2.3G"),
        Classification("vssd_tiny", "VSSD-T", 83.6, "24M", "4.5G"),
        Classification("vssd_tiny.mesa_in1k", "VSSD-T, MESA", 84.1, "24M", "4.5G"),
        Classification("vssd_small", "VSSD-S", 84.1, "40M", "7.4G"),
        Classification("vssd_small.mesa_in1k", "VSSD-S, MESA", 84.5, "40M", "7.4G"),
        Classification("vssd_base", "VSSD-B", 84.7, "89M", "16.1G"),
        Classification("vssd_base.mesa_in1k", "VSSD-B, MESA", 85.4, "89M", "16.1G"),
    ),
    detection=(
        Detection("vssd_micro", "Mask R-CNN 1x", "33M", "220G", 45.4, 41.3),
        Detection("vssd_tiny", "Mask R-CNN 1x", "44M", "265G", 46.9, 42.6),
        Detection("vssd_small", "Mask R-CNN 1x", "59M", "325G", 48.4, 43.5),
        Detection("vssd_micro", "Mask R-CNN 3x", "33M", "220G", 47.7, 42.8),
        Detection("vssd_tiny", "Mask R-CNN 3x", "44M", "265G", 48.8, 43.6),
        Detection("vssd_small", "Mask R-CNN 3x", "59M", "325G", 50.0, 44.6),
    ),
    segmentation=(
        Segmentation("vssd_micro", "UPerNet 160k", "42M", "893G", 45.6, 46.0),
        Segmentation("vssd_tiny", "UPerNet 160k", "53M", "941G", 47.9, 48.7),
    ),
)
EFFICIENTVIM = Published(
    source="https://github.com/mlvlab/EfficientViM/blob/304340c/README.md",
    classification=(
        Classification("ssm_efficientvim_m1", "EfficientViM-M1, 450 epochs", 73.5, "6.7M", "239M"),
        Classification(
            "ssm_efficientvim_m1.e300_in1k", "EfficientViM-M1, 300 epochs", 72.9, "6.7M", "239M"
        ),
        Classification("ssm_efficientvim_m2", "EfficientViM-M2, 450 epochs", 75.8, "13.9M", "355M"),
        Classification(
            "ssm_efficientvim_m2.e300_in1k", "EfficientViM-M2, 300 epochs", 75.4, "13.9M", "355M"
        ),
        Classification("ssm_efficientvim_m3", "EfficientViM-M3, 450 epochs", 77.9, "16.6M", "656M"),
        Classification(
            "ssm_efficientvim_m3.e300_in1k", "EfficientViM-M3, 300 epochs", 77.6, "16.6M", "656M"
        ),
        Classification(
            "ssm_efficientvim_m4", "EfficientViM-M4, 450 epochs", 79.6, "19.6M", "1111M"
        ),
        Classification(
            "ssm_efficientvim_m4.e300_in1k", "EfficientViM-M4, 300 epochs", 79.4, "19.6M", "1111M"
        ),
        Classification("ssm_efficientvim_m1_dist", "EfficientViM-M1, distilled", 74.6, "-", "-"),
        Classification("ssm_efficientvim_m2_dist", "EfficientViM-M2, distilled", 76.7, "-", "-"),
        Classification("ssm_efficientvim_m3_dist", "EfficientViM-M3, distilled", 79.1, "-", "-"),
        Classification("ssm_efficientvim_m4_dist", "EfficientViM-M4, distilled", 80.7, "-", "-"),
    ),
    detection=(Detection("ssm_efficientvim_m4", "Mask R-CNN 1x", "-", "-", 39.7, 36.4),),
    segmentation=(),
)
EFFICIENTVMAMBA = Published(
    source="https://github.com/TerryPei/EfficientVMamba/blob/0bc5ee2/README.md",
    classification=(
        Classification("efficientvmamba_tiny", "EfficientVMamba-T", 76.5, "6M", "0.8G"),
        Classification("efficientvmamba_small", "EfficientVMamba-S", 78.7, "11M", "1.3G"),
        Classification("efficientvmamba_base", "EfficientVMamba-B", 81.8, "33M", "4.0G"),
    ),
    detection=(),
    segmentation=(),
)
FAMILIES = {
    "vmamba": VMAMBA,
    "vim": VIM,
    "spatial_mamba": SPATIAL_MAMBA,
    "vssd": VSSD,
    "efficientvim": EFFICIENTVIM,
    "efficientvmamba": EFFICIENTVMAMBA,
}


def pretrained_cfg(model: str) -> PretrainedCfg:
    """Weights, licence and preprocessing of a registered model, "name" or "name.tag".

    Raises:
        ValueError: the name is not registered.
        RuntimeError: the name has no such tag (from timm).
    """
    cfg = timm.get_pretrained_cfg(model)
    if cfg is None:
        raise ValueError(f"model: no registered model is called {model!r}")
    return cfg


def published_accuracy(model: str) -> tuple[float, str] | None:
    """Published ImageNet top-1 (%) of a model's weights and its source; None without weights."""
    cfg = pretrained_cfg(model)
    for family in FAMILIES.values():
        for row in family.classification:
            if pretrained_cfg(row.model) == cfg:
                return row.top1, family.source
    return None
