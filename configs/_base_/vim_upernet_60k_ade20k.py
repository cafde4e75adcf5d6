"""UPerNet on ADE20K for 60,000 steps, as published for Vim: 4 x 8 images, tested in windows.

Four maps of the plain backbone are resized to a pyramid. They are the residual stream's, as in the
official Vim-S; the official Vim-Ti reads the outputs of the mixers there. Learning rates fall with
depth as the official config means them to: its code looks for another name and leaves the blocks at
the full rate.
"""

_base_ = ["upernet_160k_ade20k.py"]

model = dict(
    backbone=dict(
        class_token=False,
        global_pool="avg",
        img_size=512,
        out_indices=[5, 11, 17, 23],
        out_norm=False,
    ),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
train_dataloader = dict(batch_size=8)

train_cfg = dict(max_iters=60000, val_interval=6000)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    constructor="BackboneLayerDecay",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", eta_min=0.0, power=1.0, begin=1500, end=60000, by_epoch=False),
]
