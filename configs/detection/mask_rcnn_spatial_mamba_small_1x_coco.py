"""Spatial-Mamba-S, Mask R-CNN 1x: published AP 49.2 of boxes, 44.0 of masks."""

_base_ = ["../_base_/mask_rcnn_spatial_mamba_small.py", "../_base_/coco_1x.py"]
