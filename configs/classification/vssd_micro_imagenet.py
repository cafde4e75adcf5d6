"""VSSD-M on ImageNet-1k; published top-1 82.5 %. The recipe is VMamba's."""

_base_ = "../_base_/vmamba_imagenet_300e.py"

model = dict(network=dict(model_name="vssd_micro", drop_path_rate=0.1))
