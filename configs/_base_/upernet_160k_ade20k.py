"""UPerNet on ADE20K for 160,000 steps, as published for VMamba and families after it: 8 x 2 images.

AdamW as in Swin's configs; names with `norm` in them are not decayed.
"""

_base_ = ["upernet.py", "ade20k.py", "mmseg_runtime.py"]

train_cfg = dict(type="IterBasedTrainLoop", max_iters=160000, val_interval=16000)

optim_wrapper = dict(
    type="OptimWrapper",
    paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult=0.0))),
    optimizer=dict(type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", eta_min=0.0, power=1.0, begin=1500, end=160000, by_epoch=False),
]
