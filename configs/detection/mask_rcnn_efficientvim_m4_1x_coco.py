"""EfficientViM-M4, Mask R-CNN 1x: published AP 39.7 of boxes, 36.4 of masks.

The head's strides begin at 4, the backbone's at 16. The official neck normalises what it reads;
here the backbone's output norms do.
"""

_base_ = ["../_base_/mask_rcnn.py", "../_base_/efficientvim_coco_1x.py"]

model = dict(
    backbone=dict(
        arch="ssm_efficientvim_m4",
        norm_eval=True,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://huggingface.co/timm/efficientvim_m4.e450_in1k/resolve/main/model.safetensors",
        ),
    ),
    neck=[
        dict(type="FPN", in_channels=[224, 320, 512], out_channels=256, num_outs=3),
        dict(type="FinerLevels", channels=256, num_levels=2),
    ],
)
