"""Vanilla-VMamba-B on ImageNet-1k; published top-1 83.7 %."""

_base_ = "../_base_/vmamba_imagenet_300e.py"

model = dict(network=dict(model_name="vanilla_vmamba_base", drop_path_rate=0.5))
