"""VMamba-B[s2l15] on ImageNet-1k; published top-1 83.9 %."""

_base_ = "../_base_/vmamba_imagenet_300e.py"

model = dict(network=dict(model_name="vmamba_base_s2l15", drop_path_rate=0.6))
