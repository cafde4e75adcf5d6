"""VSSD-B on ImageNet-1k; published top-1 84.7 %.

The recipe is VMamba's at a lower learning rate. The warm-up starts from 6e-7, where the published
one starts from 1e-6.
"""

_base_ = "../_base_/vmamba_imagenet_300e.py"

model = dict(network=dict(model_name="vssd_base", drop_path_rate=0.6))
optim_wrapper = dict(optimizer=dict(lr=6e-4))
