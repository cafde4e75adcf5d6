"""VMamba-T s2l5, Mask R-CNN 1x: published AP 47.4 of boxes, 42.7 of masks."""

_base_ = ["../_base_/mask_rcnn_vmamba_tiny_s2l5.py", "../_base_/coco_1x.py"]
