"""VMamba-T[s2l5] on ImageNet-1k; published top-1 82.5 %."""

_base_ = "../_base_/vmamba_imagenet_300e.py"

model = dict(network=dict(model_name="vmamba_tiny_s2l5", drop_path_rate=0.2))
