"""EfficientViM's published ImageNet recipe over 450 epochs."""

_base_ = "efficientvim_imagenet_300e.py"

epochs = 450
warmup = 20
train_cfg = dict(max_epochs=epochs)
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
