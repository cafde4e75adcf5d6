"""EfficientViM-M4, RetinaNet 1x: published AP 38.8.

The head's strides begin at 8, the backbone's at 16; see the config of Mask R-CNN.
"""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "../_base_/efficientvim_coco_1x.py",
]

model = dict(
    backbone=dict(
        _delete_=True,
        type="SSMBackbone",
        arch="ssm_efficientvim_m4",
        norm_eval=True,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://huggingface.co/timm/efficientvim_m4.e450_in1k/resolve/main/model.safetensors",
        ),
    ),
    neck=[
        dict(type="FPN", in_channels=[224, 320, 512], out_channels=256, num_outs=4),
        dict(type="FinerLevels", channels=256, num_levels=1),
    ],
)
train_pipeline = [
    dict(type="SeedSample"),
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_evaluator = dict(metric="bbox")
test_evaluator = val_evaluator
