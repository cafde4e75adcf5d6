"""VMamba-S, first version, Mask R-CNN 1x: published AP 48.2 of boxes, 43.0 of masks."""

_base_ = ["../_base_/mask_rcnn_vanilla_vmamba_small.py", "../_base_/coco_1x.py"]
