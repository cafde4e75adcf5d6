"""VMamba's published ImageNet recipe: 300 epochs, 8 x 128 images (its classification/config.py).

The learning rate is the one for 1,024 images a step and is scaled to the real batch size.
"""

_base_ = ["runtime.py", "imagenet.py"]

model = dict(
    type="ImageClassifier",
    network=dict(num_classes=1000),
    label_smoothing=0.1,
    data_preprocessor=dict(
        type="MixupPreprocessor",
        mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=1000),
    ),
)

optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="float16",
    constructor="TimmParamGroups",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
auto_scale_lr = dict(enable=True, base_batch_size=1024)

epochs = 300
warmup = 20
train_cfg = dict(type="ResumableEpochLoop", max_epochs=epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, end=warmup, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=1e-2,
        begin=warmup,
        end=epochs,
        T_max=epochs - warmup,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(ema=dict(type="EMAHook", momentum=1e-4))
