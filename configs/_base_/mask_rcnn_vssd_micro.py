"""Mask R-CNN on VSSD-M.

Stochastic depth is that of the ImageNet recipe: no other figure is published.
"""

_base_ = ["mask_rcnn.py"]

model = dict(
    backbone=dict(
        arch="vssd_micro",
        drop_path_rate=0.1,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://huggingface.co/YuhengSSS/VSSD/resolve/main/vssd_micro_best.pth",
        ),
    ),
    neck=dict(in_channels=[48, 96, 192, 384]),
)
