"""VMamba-T s1l8, Mask R-CNN 1x: published AP 47.3 of boxes, 42.7 of masks."""

_base_ = ["../_base_/mask_rcnn_vmamba_tiny_s1l8.py", "../_base_/coco_1x.py"]
