"""VSSD-M, Mask R-CNN 1x: published AP 45.4 of boxes, 41.3 of masks."""

_base_ = ["../_base_/mask_rcnn_vssd_micro.py", "../_base_/coco_1x.py"]
