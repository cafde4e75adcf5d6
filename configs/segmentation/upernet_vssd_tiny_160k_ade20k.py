"""VSSD-T, UPerNet: published mIoU 47.9, at many scales 48.7."""

_base_ = ["../_base_/upernet_160k_ade20k.py"]

model = dict(
    backbone=dict(
        arch="vssd_tiny",
        drop_path_rate=0.2,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://huggingface.co/YuhengSSS/VSSD/resolve/main/vssd_tiny_best_ema.pth",
        ),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
