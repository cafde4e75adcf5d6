"""Vim-S+ on ImageNet-1k, from the weights of Vim-S; published top-1 81.6 %."""

_base_ = "../_base_/vim_plus_imagenet_30e.py"

model = dict(network=dict(model_name="vim_small"))
