"""Vim-S, UPerNet for 60,000 steps."""

_base_ = ["../_base_/vim_upernet_60k_ade20k.py"]

model = dict(
    backbone=dict(
        arch="vim_small",
        drop_path_rate=0.05,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://huggingface.co/hustvl/Vim-small-midclstok/resolve/main/vim_s_midclstok_80p5acc.pth",
        ),
    ),
    neck=dict(type="Feature2Pyramid", embed_dim=384),
    decode_head=dict(in_channels=[384, 384, 384, 384], channels=384),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.95))
