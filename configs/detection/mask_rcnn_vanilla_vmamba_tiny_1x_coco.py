"""VMamba-T, first version, Mask R-CNN 1x: published AP 46.5 of boxes, 42.1 of masks."""

_base_ = ["../_base_/mask_rcnn_vanilla_vmamba_tiny.py", "../_base_/coco_1x.py"]
