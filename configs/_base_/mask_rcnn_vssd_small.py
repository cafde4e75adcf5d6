"""Mask R-CNN on VSSD-S.

Stochastic depth is that of the ImageNet recipe: no other figure is published.
"""

_base_ = ["mask_rcnn.py"]

model = dict(
    backbone=dict(
        arch="vssd_small",
        drop_path_rate=0.4,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://huggingface.co/YuhengSSS/VSSD/resolve/main/vssd_small_best_ema.pth",
        ),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
