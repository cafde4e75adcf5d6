"""VSSD-S, Mask R-CNN 1x: published AP 48.4 of boxes, 43.5 of masks."""

_base_ = ["../_base_/mask_rcnn_vssd_small.py", "../_base_/coco_1x.py"]
