"""Spatial-Mamba-T, Mask R-CNN 3x: published AP 49.3 of boxes, 43.6 of masks."""

_base_ = ["../_base_/mask_rcnn_spatial_mamba_tiny.py", "../_base_/coco_3x.py"]
