"""Mask R-CNN on VSSD-T.

Stochastic depth is that of the ImageNet recipe: no other figure is published.
"""

_base_ = ["mask_rcnn.py"]

model = dict(
    backbone=dict(
        arch="vssd_tiny",
        drop_path_rate=0.2,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://huggingface.co/YuhengSSS/VSSD/resolve/main/vssd_tiny_best_ema.pth",
        ),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
