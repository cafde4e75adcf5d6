"""Spatial-Mamba-T, UPerNet: published mIoU 48.6, at many scales 49.4."""

_base_ = ["../_base_/upernet_160k_ade20k.py"]

model = dict(
    backbone=dict(
        arch="spatial_mamba_tiny",
        drop_path_rate=0.2,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://drive.usercontent.google.com/download?id=19kXoqGSTuKKs4AHbdUSrdKZTwTWenLIW&export=download&confirm=t",
        ),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
