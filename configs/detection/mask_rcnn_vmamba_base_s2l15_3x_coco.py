"""VMamba-B s2l15, Mask R-CNN 3x: no published figure."""

_base_ = ["../_base_/mask_rcnn_vmamba_base_s2l15.py", "../_base_/coco_3x.py"]
