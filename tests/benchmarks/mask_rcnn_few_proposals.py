"""The demo's detector with a tenth of its proposals: its heads take most of the time on a CPU."""

_base_ = ["../../configs/detection/mask_rcnn_vmamba_pico_demo.py"]

model = dict(
    train_cfg=dict(rpn_proposal=dict(max_per_img=100), rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(rpn=dict(max_per_img=100)),
)
