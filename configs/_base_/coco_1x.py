"""COCO at 1333 x 800 for 12 epochs, as published for VMamba and families after it: 8 x 2 images.

AdamW as in Swin's configs; names with `norm` in them are not decayed.
"""

_base_ = [
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/default_runtime.py",
]

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=12, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
auto_scale_lr = dict(enable=False, base_batch_size=16)

optim_wrapper = dict(
    type="OptimWrapper",
    paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult=0.0))),
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
