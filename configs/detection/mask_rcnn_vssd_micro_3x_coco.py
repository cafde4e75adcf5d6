"""VSSD-M, Mask R-CNN 3x: published AP 47.7 of boxes, 42.8 of masks."""

_base_ = ["../_base_/mask_rcnn_vssd_micro.py", "../_base_/coco_3x.py"]
