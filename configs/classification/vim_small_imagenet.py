"""Vim-S on ImageNet-1k, 8 x 64 images a step; published top-1 80.5 %."""

_base_ = "../_base_/vim_imagenet_300e.py"

model = dict(network=dict(model_name="vim_small", drop_path_rate=0.05))
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
auto_scale_lr = dict(base_batch_size=512)
