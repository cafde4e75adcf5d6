"""A small Vim on Fashion-MNIST, 8 x 8 patches: minutes on one GPU with `--amp`.

The four files lie unpacked in data/FashionMNIST/raw, as torchvision's download leaves them.
"""

_base_ = "../_base_/runtime.py"

model = dict(
    type="ImageClassifier",
    network=dict(
        model_name="vim_tiny",
        img_size=32,
        patch_size=4,
        stride=4,
        embed_dim=128,
        depth=12,
        num_classes=10,
    ),
    label_smoothing=0.1,
)

size = dict(
    input_size=(3, 32, 32),
    interpolation="bicubic",
    mean=(0.286, 0.286, 0.286),
    std=(0.353, 0.353, 0.353),
)
augmentation = dict(
    is_training=True, scale=(0.7, 1.0), ratio=(0.85, 1.18), hflip=0.5, color_jitter=None, **size
)
evaluation = dict(crop_pct=1.0, **size)
loading = dict(num_workers=8, persistent_workers=True, collate_fn=dict(type="default_collate"))
held_out = dict(batch_size=1000, sampler=dict(type="DefaultSampler", shuffle=False), **loading)

train_dataloader = dict(
    batch_size=500,
    drop_last=True,
    sampler=dict(type="SeededSampler", sampler=dict(type="DefaultSampler")),
    dataset=dict(type="FashionMNIST", root="data", split="train", transform=augmentation),
    **loading,
)
val_dataloader = dict(
    dataset=dict(type="FashionMNIST", root="data", split="val", transform=evaluation), **held_out
)
test_dataloader = dict(
    dataset=dict(type="FashionMNIST", root="data", split="test", transform=evaluation), **held_out
)

epochs = 20
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
