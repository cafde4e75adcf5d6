"""Mask R-CNN on VMamba-S s2l15."""

_base_ = ["mask_rcnn.py"]

model = dict(
    backbone=dict(
        arch="vmamba_small_s2l15",
        drop_path_rate=0.3,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_small_0229_ckpt_epoch_222.pth",
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
