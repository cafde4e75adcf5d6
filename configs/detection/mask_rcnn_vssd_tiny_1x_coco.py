"""VSSD-T, Mask R-CNN 1x: published AP 46.9 of boxes, 42.6 of masks."""

_base_ = ["../_base_/mask_rcnn_vssd_tiny.py", "../_base_/coco_1x.py"]
