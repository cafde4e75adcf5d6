"""VSSD-T, Mask R-CNN 3x: published AP 48.8 of boxes, 43.6 of masks."""

_base_ = ["../_base_/mask_rcnn_vssd_tiny.py", "../_base_/coco_3x.py"]
