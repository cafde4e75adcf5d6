"""Spatial-Mamba-T, Mask R-CNN 1x: published AP 47.6 of boxes, 42.9 of masks."""

_base_ = ["../_base_/mask_rcnn_spatial_mamba_tiny.py", "../_base_/coco_1x.py"]
