"""Mask R-CNN on VMamba-T s1l8."""

_base_ = ["mask_rcnn.py"]

model = dict(
    backbone=dict(
        arch="vmamba_tiny_s1l8",
        drop_path_rate=0.2,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm1_tiny_0230s_ckpt_epoch_264.pth",
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
