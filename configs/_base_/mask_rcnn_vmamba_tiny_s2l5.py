"""Mask R-CNN on VMamba-T s2l5."""

_base_ = ["mask_rcnn.py"]

model = dict(
    backbone=dict(
        arch="vmamba_tiny_s2l5",
        drop_path_rate=0.2,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_tiny_0230_ckpt_epoch_262.pth",
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
