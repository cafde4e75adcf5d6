"""VMamba-S s2l15, UPerNet: published mIoU 50.6, at many scales 51.2."""

_base_ = ["../_base_/upernet_160k_ade20k.py"]

model = dict(
    backbone=dict(
        arch="vmamba_small_s2l15",
        drop_path_rate=0.3,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_small_0229_ckpt_epoch_222.pth",
        ),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
