"""VMamba-T[s1l8] on ImageNet-1k; published top-1 82.6 %."""

_base_ = "../_base_/vmamba_imagenet_300e.py"

model = dict(network=dict(model_name="vmamba_tiny_s1l8", drop_path_rate=0.2))
