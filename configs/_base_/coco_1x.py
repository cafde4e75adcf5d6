"""COCO at 1333 x 800 for 12 epochs, as published for VMamba and families after it: 8 x 2 images.

AdamW as in Swin's configs; names with `norm` in them are not decayed.
"""

_base_ = ["mmdet::_base_/datasets/coco_instance.py", "training.py"]
custom_imports = dict(
    imports=["visionssm.training", "visionssm.openmmlab"], allow_failed_imports=False
)
default_scope = "mmdet"
env_cfg = dict(cudnn_benchmark=False)  # sizes and numbers of regions change with every step

train_pipeline = [
    dict(type="SeedSample"),
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    sampler=dict(
        _delete_=True, type="SeededSampler", sampler=dict(type="DefaultSampler", shuffle=True)
    ),
    dataset=dict(pipeline=train_pipeline),
)

train_cfg = dict(type="ResumableEpochLoop", max_epochs=12)
default_hooks = dict(
    checkpoint=dict(monitor="coco/bbox_mAP"), predictions=dict(type="PredictionsHook")
)
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
