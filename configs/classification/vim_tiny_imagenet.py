"""Vim-Ti on ImageNet-1k; published top-1 76.1 %."""

_base_ = "../_base_/vim_imagenet_300e.py"

model = dict(network=dict(model_name="vim_tiny", drop_path_rate=0.0))
