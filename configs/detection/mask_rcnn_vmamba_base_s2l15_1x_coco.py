"""VMamba-B s2l15, Mask R-CNN 1x: published AP 49.2 of boxes, 44.1 of masks."""

_base_ = ["../_base_/mask_rcnn_vmamba_base_s2l15.py", "../_base_/coco_1x.py"]
