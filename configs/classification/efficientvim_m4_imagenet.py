"""EfficientViM-M4 on ImageNet-1k at 256 x 256, 300 epochs; published top-1 79.4 %."""

_base_ = "../_base_/efficientvim_imagenet_300e.py"

model = dict(network=dict(model_name="ssm_efficientvim_m4"))

size = dict(dataset=dict(transform=dict(input_size=(3, 256, 256))))
train_dataloader = size
val_dataloader = size
test_dataloader = size
