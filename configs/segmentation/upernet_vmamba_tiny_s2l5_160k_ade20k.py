"""VMamba-T s2l5, UPerNet: published mIoU 48.3, at many scales 48.6."""

_base_ = ["../_base_/upernet_160k_ade20k.py"]

model = dict(
    backbone=dict(
        arch="vmamba_tiny_s2l5",
        drop_path_rate=0.2,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_tiny_0230_ckpt_epoch_262.pth",
        ),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
