"""VMamba-S s2l15, Mask R-CNN 3x: published AP 49.9 of boxes, 44.2 of masks."""

_base_ = ["../_base_/mask_rcnn_vmamba_small_s2l15.py", "../_base_/coco_3x.py"]
