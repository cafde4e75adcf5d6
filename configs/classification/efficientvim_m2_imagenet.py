"""EfficientViM-M2 on ImageNet-1k, 300 epochs; published top-1 75.4 %."""

_base_ = "../_base_/efficientvim_imagenet_300e.py"

model = dict(network=dict(model_name="ssm_efficientvim_m2"))
