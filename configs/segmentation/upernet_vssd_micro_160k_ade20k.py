"""VSSD-M, UPerNet: published mIoU 45.6, at many scales 46.0."""

_base_ = ["../_base_/upernet_160k_ade20k.py"]

model = dict(
    backbone=dict(
        arch="vssd_micro",
        drop_path_rate=0.1,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://huggingface.co/YuhengSSS/VSSD/resolve/main/vssd_micro_best.pth",
        ),
    ),
    decode_head=dict(in_channels=[48, 96, 192, 384]),
    auxiliary_head=dict(in_channels=192),
)
