"""VMamba-T s1l8, Mask R-CNN 3x: published AP 48.8 of boxes, 43.7 of masks."""

_base_ = ["../_base_/mask_rcnn_vmamba_tiny_s1l8.py", "../_base_/coco_3x.py"]
