"""Vanilla-VMamba-S on ImageNet-1k; published top-1 83.5 %."""

_base_ = "../_base_/vmamba_imagenet_300e.py"

model = dict(network=dict(model_name="vanilla_vmamba_small", drop_path_rate=0.3))
