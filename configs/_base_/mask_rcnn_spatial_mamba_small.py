"""Mask R-CNN on Spatial-Mamba-S."""

_base_ = ["mask_rcnn.py"]

model = dict(
    backbone=dict(
        arch="spatial_mamba_small",
        drop_path_rate=0.3,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://drive.usercontent.google.com/download?id=1Wb3sYoWLpgmWrmHMYKwdgDwGPZaqM28O&export=download&confirm=t",
        ),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
