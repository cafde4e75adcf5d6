"""VMamba-B[s1l20] on ImageNet-1k; published top-1 83.8 %."""

_base_ = "../_base_/vmamba_imagenet_300e.py"

model = dict(network=dict(model_name="vmamba_base_s1l20", drop_path_rate=0.5))
