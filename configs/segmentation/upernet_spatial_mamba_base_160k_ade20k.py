"""Spatial-Mamba-B, UPerNet: published mIoU 51.8, at many scales 52.6."""

_base_ = ["../_base_/upernet_160k_ade20k.py"]

model = dict(
    backbone=dict(
        arch="spatial_mamba_base",
        drop_path_rate=0.5,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://drive.usercontent.google.com/download?id=1k8dHp2QRCOqBSgAi36YkhZp_O8LqOPjM&export=download&confirm=t",
        ),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
