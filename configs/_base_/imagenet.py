"""ImageNet-1k at 224 x 224: folders (or tar files) `train` and `val` under data/imagenet."""

root = "data/imagenet"
size = dict(
    input_size=(3, 224, 224),
    interpolation="bicubic",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
augmentation = dict(
    is_training=True,
    auto_augment="rand-m9-mstd0.5-inc1",
    color_jitter=0.4,
    re_prob=0.25,
    re_mode="pixel",
    **size,
)
evaluation = dict(crop_pct=0.875, **size)

train_dataloader = dict(
    batch_size=128,
    num_workers=16,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="SeededSampler", sampler=dict(type="DefaultSampler")),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="ImageFiles", root=root, split="train", transform=augmentation),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=16,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="ImageFiles", root=root, split="val", transform=evaluation, max_corrupt=0),
)
test_dataloader = val_dataloader
