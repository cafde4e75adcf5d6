"""Vim-Ti, UPerNet for 60,000 steps."""

_base_ = ["../_base_/vim_upernet_60k_ade20k.py"]

model = dict(
    backbone=dict(
        arch="vim_tiny",
        drop_path_rate=0.0,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://huggingface.co/hustvl/Vim-tiny-midclstok/resolve/main/vim_t_midclstok_76p1acc.pth",
        ),
    ),
    neck=dict(type="Feature2Pyramid", embed_dim=192),
    decode_head=dict(in_channels=[192, 192, 192, 192], channels=192),
    auxiliary_head=dict(in_channels=192),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.92))
