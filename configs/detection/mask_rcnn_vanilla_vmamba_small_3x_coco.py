"""VMamba-S, first version, Mask R-CNN 3x: published AP 49.7 of boxes, 44.0 of masks."""

_base_ = ["../_base_/mask_rcnn_vanilla_vmamba_small.py", "../_base_/coco_3x.py"]
