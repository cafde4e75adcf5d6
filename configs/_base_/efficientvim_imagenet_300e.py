"""EfficientViM's published ImageNet recipe: 300 epochs, 8 x 256 images (its classification/*.sh).

The learning rate is for 2,048 images a step; the official code does not scale it to another number.
Left out are what it adds from a quarter of the epochs on, a loss against the logits of the moving
average (MESA, weight 1.0), and its ten epochs of cooldown. It decays the scales of layer
normalisations, which it stores with axes of size one; here they are vectors and are not decayed.
"""

_base_ = "vmamba_imagenet_300e.py"

train_dataloader = dict(batch_size=256)
val_dataloader = dict(batch_size=256)
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=0.02))
auto_scale_lr = dict(enable=False, base_batch_size=2048)
default_hooks = dict(ema=dict(momentum=5e-4))
