"""Vim's published ImageNet recipe: DeiT's, 300 epochs (its vim/main.py and vim/scripts/pt-*.sh).

The learning rate is the one for `base_batch_size` images a step and is scaled to the real batch
size; it moves once an epoch. Training is in float32. The official cosine is measured from the first
epoch, here from the end of the warm-up: nowhere more than 2 % of the peak apart. The official
script also keeps an average of the weights, but does not evaluate it.
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
train_dataloader = dict(
    sampler=dict(sampler=dict(type="RepeatAugSampler", num_repeats=3)),
    dataset=dict(transform=dict(color_jitter=0.3)),
)

optim_wrapper = dict(
    type="OptimWrapper",
    constructor="TimmParamGroups",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1),
)
auto_scale_lr = dict(enable=True, base_batch_size=1024)

epochs = 300
warmup = 5
train_cfg = dict(type="ResumableEpochLoop", max_epochs=epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, end=warmup + 1),  # the last epoch is at the peak
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=1e-2,
        begin=warmup,
        end=epochs,
        T_max=epochs - warmup,
    ),
]
