"""Mask R-CNN on VMamba-T, first version.

Stochastic depth is the official class's default, which its configs for dense tasks leave alone.
"""

_base_ = ["mask_rcnn.py"]

model = dict(
    backbone=dict(
        arch="vanilla_vmamba_tiny",
        drop_path_rate=0.1,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/MzeroMiko/VMamba/releases/download/%23v0cls/vssmtiny_dp01_ckpt_epoch_292.pth",
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
