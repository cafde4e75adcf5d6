"""Vanilla-VMamba-T on ImageNet-1k; published top-1 82.2 %."""

_base_ = "../_base_/vmamba_imagenet_300e.py"

model = dict(network=dict(model_name="vanilla_vmamba_tiny", drop_path_rate=0.2))
