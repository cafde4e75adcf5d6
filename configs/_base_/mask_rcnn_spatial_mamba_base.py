"""Mask R-CNN on Spatial-Mamba-B."""

_base_ = ["mask_rcnn.py"]

model = dict(
    backbone=dict(
        arch="spatial_mamba_base",
        drop_path_rate=0.5,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://drive.usercontent.google.com/download?id=1k8dHp2QRCOqBSgAi36YkhZp_O8LqOPjM&export=download&confirm=t",
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
