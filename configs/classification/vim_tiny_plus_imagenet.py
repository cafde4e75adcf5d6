"""Vim-Ti+ on ImageNet-1k, from the weights of Vim-Ti; published top-1 78.3 %."""

_base_ = "../_base_/vim_plus_imagenet_30e.py"

model = dict(network=dict(model_name="vim_tiny"))
