"""The Vim of vim_fashion_mnist.py, trained, with 0.7 of the patches after each quarter."""

_base_ = "vim_fashion_mnist.py"

load_from = "work_dirs/vim_fashion_mnist/best.pth"
model = dict(pruning=dict(keep=0.7))

epochs = 3
train_cfg = dict(max_epochs=epochs)
optim_wrapper = dict(optimizer=dict(lr=3e-4))
param_scheduler = [
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=0.01,
        end=epochs,
        T_max=epochs,
        convert_to_iter_based=True,
    ),
]
