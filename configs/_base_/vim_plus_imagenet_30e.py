"""Vim's published fine-tuning at stride 8, from the weights at stride 16 (vim/scripts/ft-*.sh).

30 epochs at one learning rate, that for 1,024 images a step: its lowest and its warm-up rate are
both the peak.
"""

_base_ = "vim_imagenet_300e.py"

model = dict(network=dict(pretrained=True, stride=8, drop_path_rate=0.0))
optim_wrapper = dict(optimizer=dict(lr=1e-5, weight_decay=1e-8))
train_cfg = dict(max_epochs=30)
param_scheduler = []
