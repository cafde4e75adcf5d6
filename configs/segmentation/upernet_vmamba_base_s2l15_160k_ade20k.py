"""VMamba-B s2l15, UPerNet: published mIoU 51.0, at many scales 51.6."""

_base_ = ["../_base_/upernet_160k_ade20k.py"]

model = dict(
    backbone=dict(
        arch="vmamba_base_s2l15",
        drop_path_rate=0.6,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_base_0229_ckpt_epoch_237.pth",
        ),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
