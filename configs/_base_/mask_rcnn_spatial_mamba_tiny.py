"""Mask R-CNN on Spatial-Mamba-T."""

_base_ = ["mask_rcnn.py"]

model = dict(
    backbone=dict(
        arch="spatial_mamba_tiny",
        drop_path_rate=0.2,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://drive.usercontent.google.com/download?id=19kXoqGSTuKKs4AHbdUSrdKZTwTWenLIW&export=download&confirm=t",
        ),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
