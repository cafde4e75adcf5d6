"""EfficientViM's published schedule for COCO: 12 epochs of 16 images a step."""

_base_ = ["coco_1x.py"]

optim_wrapper = dict(
    paramwise_cfg=None,
    optimizer=dict(type="AdamW", lr=2e-4, weight_decay=0.05),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
