"""Spatial-Mamba-B, Mask R-CNN 1x: published AP 50.4 of boxes, 45.1 of masks."""

_base_ = ["../_base_/mask_rcnn_spatial_mamba_base.py", "../_base_/coco_1x.py"]
