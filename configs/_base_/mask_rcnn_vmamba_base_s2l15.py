"""Mask R-CNN on VMamba-B s2l15."""

_base_ = ["mask_rcnn.py"]

model = dict(
    backbone=dict(
        arch="vmamba_base_s2l15",
        drop_path_rate=0.6,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_base_0229_ckpt_epoch_237.pth",
        ),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
