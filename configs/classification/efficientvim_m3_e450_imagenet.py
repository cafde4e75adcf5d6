"""EfficientViM-M3 on ImageNet-1k, 450 epochs; published top-1 77.9 %."""

_base_ = "../_base_/efficientvim_imagenet_450e.py"

model = dict(network=dict(model_name="ssm_efficientvim_m3"))
