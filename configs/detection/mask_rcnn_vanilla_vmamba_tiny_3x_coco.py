"""VMamba-T, first version, Mask R-CNN 3x: published AP 48.5 of boxes, 43.2 of masks."""

_base_ = ["../_base_/mask_rcnn_vanilla_vmamba_tiny.py", "../_base_/coco_3x.py"]
