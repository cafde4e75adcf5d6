"""The demo: a small VMamba learns from scratch to find handwritten digits (`make demo-det`).

Boxes and masks of the scenes that `tools/make_demo_data.py data/demo` writes. Heads are narrow, and
normalised by groups of channels, as training from scratch needs it.
"""

_base_ = ["../_base_/mask_rcnn.py", "../_base_/training.py"]
custom_imports = dict(
    imports=["visionssm.training", "visionssm.openmmlab"], allow_failed_imports=False
)
default_scope = "mmdet"
env_cfg = dict(cudnn_benchmark=False)  # the number of regions changes with every step

channels = 128
norm_cfg = dict(type="GN", num_groups=16, requires_grad=True)
regions = dict(nms_pre=1000, max_per_img=400)
model = dict(
    backbone=dict(arch="vmamba_pico", drop_path_rate=0.05),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=channels, num_outs=4, norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(scales=[6], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        # Finer than the usual 7 x 7: one digit fills a box, which should fit tightly.
        bbox_roi_extractor=dict(out_channels=channels, roi_layer=dict(output_size=10)),
        bbox_head=dict(
            type="Shared4Conv1FCBBoxHead",
            in_channels=channels,
            conv_out_channels=channels,
            norm_cfg=norm_cfg,
            fc_out_channels=512,
            roi_feat_size=10,
            num_classes=10,
            reg_class_agnostic=True,
        ),
        mask_roi_extractor=dict(out_channels=channels, roi_layer=dict(output_size=20)),
        mask_head=dict(
            in_channels=channels, conv_out_channels=64, num_classes=10, norm_cfg=norm_cfg
        ),
    ),
    train_cfg=dict(
        rpn_proposal=regions,
        rcnn=dict(sampler=dict(num=256, pos_fraction=0.5), mask_size=40),
    ),
    test_cfg=dict(rpn=regions),
)

data_root = "data/demo/"
data = dict(
    type="CocoDataset",
    data_root=data_root,
    metainfo=dict(classes=tuple("0123456789")),
)
image = dict(type="LoadImageFromFile")
resize = dict(type="Resize", scale=(384, 320), keep_ratio=True)  # as they are
annotations = dict(type="LoadAnnotations", with_bbox=True, with_mask=True)
pack = dict(type="PackDetInputs")
train_dataloader = dict(
    batch_size=4,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="SeededSampler", sampler=dict(type="DefaultSampler")),
    dataset=dict(
        ann_file="annotations/instances_train.json",
        data_prefix=dict(img="images/train/"),
        pipeline=[dict(type="SeedSample"), image, annotations, resize, pack],
        **data,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        ann_file="annotations/instances_val.json",
        data_prefix=dict(img="images/val/"),
        test_mode=True,
        pipeline=[image, resize, annotations, pack],
        **data,
    ),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        ann_file="annotations/instances_test.json",
        data_prefix=dict(img="images/test/"),
        test_mode=True,
        pipeline=[image, resize, annotations, pack],
        **data,
    ),
)
val_evaluator = dict(
    type="CocoMetric",
    ann_file=data_root + "annotations/instances_val.json",
    metric=["bbox", "segm"],
    metric_items=["mAP", "mAP_50", "mAP_75"],
)
test_evaluator = dict(
    type="CocoMetric",
    ann_file=data_root + "annotations/instances_test.json",
    metric=["bbox", "segm"],
)

train_cfg = dict(type="ResumableEpochLoop", max_epochs=4, val_interval=2)
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="BackboneLayerDecay",
    paramwise_cfg=dict(decay_rate=1.0),
    optimizer=dict(type="AdamW", lr=1.5e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, begin=0, end=0.25, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, begin=0.25, convert_to_iter_based=True),
]
default_hooks = dict(
    checkpoint=dict(monitor="coco/segm_mAP"),
    ema=dict(type="EMAHook", momentum=0.005),
    predictions=dict(type="PredictionsHook"),
)
