"""Mask R-CNN on VMamba-B, first version.

Stochastic depth is the official class's default, which its configs for dense tasks leave alone.
"""

_base_ = ["mask_rcnn.py"]

model = dict(
    backbone=dict(
        arch="vanilla_vmamba_base",
        drop_path_rate=0.1,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/MzeroMiko/VMamba/releases/download/%23v0cls/vssmbase_dp06_ckpt_epoch_241.pth",
        ),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
