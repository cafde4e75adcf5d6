"""VMamba-S s2l15, Mask R-CNN 1x: published AP 48.7 of boxes, 43.7 of masks."""

_base_ = ["../_base_/mask_rcnn_vmamba_small_s2l15.py", "../_base_/coco_1x.py"]
