"""VSSD-S, Mask R-CNN 3x: published AP 50.0 of boxes, 44.6 of masks."""

_base_ = ["../_base_/mask_rcnn_vssd_small.py", "../_base_/coco_3x.py"]
