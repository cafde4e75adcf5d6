"""The demo: a small VMamba learns from scratch to segment handwritten digits (`make demo-seg`).

Label maps of the scenes that `tools/make_demo_data.py data/demo` writes.
"""

_base_ = ["../_base_/upernet.py", "../_base_/training.py"]
custom_imports = dict(
    imports=["visionssm.training", "visionssm.openmmlab"], allow_failed_imports=False
)
default_scope = "mmseg"

norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(320, 384)),
    # Half the usual strides, for strokes are thin.
    backbone=dict(arch="vmamba_pico", drop_path_rate=0.05, patch_size=2, stem="patch"),
    decode_head=dict(
        in_channels=[32, 64, 128, 256],
        pool_scales=(4, 6),  # the last map is one of 20 x 24
        channels=128,
        num_classes=11,
        norm_cfg=norm_cfg,
        # Cross-entropy alone calls everything background for the first thousand steps.
        loss_decode=[dict(type="CrossEntropyLoss"), dict(type="DiceLoss")],
    ),
    auxiliary_head=dict(
        in_channels=128,
        channels=64,
        num_classes=11,
        norm_cfg=norm_cfg,
        # Cells of 16 pixels have no outlines to learn: this head tells the backbone about classes.
        loss_decode=dict(class_weight=[0.05] + [1.0] * 10),
    ),
)

data = dict(
    type="BaseSegDataset",
    data_root="data/demo",
    metainfo=dict(classes=("background", *"0123456789")),
)
image = dict(type="LoadImageFromFile")
resize = dict(type="Resize", scale=(384, 320), keep_ratio=True)  # as they are
annotations = dict(type="LoadAnnotations")
pack = dict(type="PackSegInputs")
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="SeededSampler", sampler=dict(type="DefaultSampler")),
    dataset=dict(
        data_prefix=dict(img_path="images/train", seg_map_path="labels/train"),
        pipeline=[dict(type="SeedSample"), image, annotations, resize, pack],
        **data,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        data_prefix=dict(img_path="images/val", seg_map_path="labels/val"),
        pipeline=[image, resize, annotations, pack],
        **data,
    ),
)
test_dataloader = dict(
    batch_size=8,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        data_prefix=dict(img_path="images/test", seg_map_path="labels/test"),
        pipeline=[image, resize, annotations, pack],
        **data,
    ),
)
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator

train_cfg = dict(type="ResumableEpochLoop", max_epochs=14, val_interval=7)
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="BackboneLayerDecay",
    paramwise_cfg=dict(decay_rate=1.0),
    optimizer=dict(type="AdamW", lr=4e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, begin=0, end=0.25, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, begin=0.25, convert_to_iter_based=True),
]
default_hooks = dict(
    checkpoint=dict(monitor="mIoU"),
    ema=dict(type="EMAHook", momentum=0.005, update_buffers=True),
    predictions=dict(type="PredictionsHook"),
)
