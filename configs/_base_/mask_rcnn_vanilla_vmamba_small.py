"""Mask R-CNN on VMamba-S, first version.

Stochastic depth is the official class's default, which its configs for dense tasks leave alone.
"""

_base_ = ["mask_rcnn.py"]

model = dict(
    backbone=dict(
        arch="vanilla_vmamba_small",
        drop_path_rate=0.1,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/MzeroMiko/VMamba/releases/download/%23v0cls/vssmsmall_dp03_ckpt_epoch_238.pth",
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
