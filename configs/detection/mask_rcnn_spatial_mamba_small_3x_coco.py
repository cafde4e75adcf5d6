"""Spatial-Mamba-S, Mask R-CNN 3x: published AP 50.5 of boxes, 44.6 of masks."""

_base_ = ["../_base_/mask_rcnn_spatial_mamba_small.py", "../_base_/coco_3x.py"]
