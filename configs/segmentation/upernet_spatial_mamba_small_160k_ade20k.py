"""Spatial-Mamba-S, UPerNet: published mIoU 50.6, at many scales 51.4."""

_base_ = ["../_base_/upernet_160k_ade20k.py"]

model = dict(
    backbone=dict(
        arch="spatial_mamba_small",
        drop_path_rate=0.3,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://drive.usercontent.google.com/download?id=1Wb3sYoWLpgmWrmHMYKwdgDwGPZaqM28O&export=download&confirm=t",
        ),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
