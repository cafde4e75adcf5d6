"""The demo: a small VMamba learns handwritten digits in minutes on two CPU cores."""

_base_ = "../_base_/runtime.py"

model = dict(
    type="ImageClassifier",
    network=dict(model_name="vmamba_pico", num_classes=10, drop_path_rate=0.05),
    label_smoothing=0.1,
)

size = dict(
    input_size=(3, 32, 32),
    interpolation="bicubic",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
augmentation = dict(
    is_training=True, scale=(0.7, 1.0), ratio=(0.85, 1.18), hflip=0.0, color_jitter=None, **size
)
evaluation = dict(crop_pct=1.0, **size)

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    drop_last=True,
    sampler=dict(type="SeededSampler", sampler=dict(type="DefaultSampler")),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="HandwrittenDigits", split="train", transform=augmentation),
)
val_dataloader = dict(
    batch_size=90,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="HandwrittenDigits", split="val", transform=evaluation),
)
test_dataloader = dict(
    batch_size=90,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="HandwrittenDigits", split="test", transform=evaluation),
)

epochs = 25
train_cfg = dict(type="ResumableEpochLoop", max_epochs=epochs)
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="TimmParamGroups",
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, begin=0, end=2, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=0.01,
        begin=2,
        end=epochs,
        T_max=epochs - 2,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(ema=dict(type="EMAHook", momentum=0.02))
