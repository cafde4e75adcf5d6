"""Vim-Ti, Cascade Mask R-CNN in ViTDet's manner, for 184,375 steps.

Images of 1024 x 1024 with large-scale jitter, 64 a step. Published with rotary position embeddings,
which no published ImageNet weight has and this backbone does not either; and with decay of biases
and norms, which are exempt here.
"""

_base_ = [
    "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py",
    "../_base_/coco_1x.py",
]

size = (1024, 1024)
norm_cfg = dict(type="ChannelLayerNorm")
bbox_head = dict(
    type="Shared4Conv1FCBBoxHead",
    in_channels=256,
    conv_out_channels=256,
    fc_out_channels=1024,
    roi_feat_size=7,
    num_classes=80,
    norm_cfg=norm_cfg,
    reg_class_agnostic=True,
    loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    loss_bbox=dict(type="SmoothL1Loss", beta=1.0, loss_weight=1.0),
)
model = dict(
    data_preprocessor=dict(
        batch_augments=[dict(type="BatchFixedSizePad", size=size, pad_mask=True)]
    ),
    backbone=dict(
        _delete_=True,
        type="SSMBackbone",
        arch="vim_tiny",
        class_token=False,
        global_pool="avg",
        img_size=1024,
        drop_path_rate=0.1,
        out_norm=False,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://huggingface.co/hustvl/Vim-tiny-midclstok/resolve/main/vim_t_midclstok_76p1acc.pth",
        ),
    ),
    neck=dict(_delete_=True, type="SimpleFeaturePyramid", in_channels=192, out_channels=256),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=[
            dict(
                bbox_coder=dict(
                    type="DeltaXYWHBBoxCoder",
                    target_means=[0.0, 0.0, 0.0, 0.0],
                    target_stds=[position, position, extent, extent],
                ),
                **bbox_head,
            )
            for position, extent in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))
        ],
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)

train_pipeline = [
    dict(type="SeedSample"),
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomResize", scale=size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type="RandomCrop",
        crop_type="absolute",
        crop_size=size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=size, keep_ratio=True),
    dict(type="Pad", size=size, pad_val=dict(img=(114, 114, 114))),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    sampler=dict(_delete_=True, type="SeededSampler", sampler=dict(type="InfiniteSampler")),
    batch_sampler=None,  # all images have one shape
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=184375, val_interval=20000)
default_hooks = dict(logger=dict(log_metric_by_epoch=False))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=64)
optim_wrapper = dict(
    _delete_=True,
    type="AmpOptimWrapper",
    constructor="BackboneLayerDecay",
    paramwise_cfg=dict(decay_rate=0.837),
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(
        type="MultiStepLR",
        by_epoch=False,
        begin=0,
        end=184375,
        milestones=[163889, 177546],
        gamma=0.1,
    ),
]
