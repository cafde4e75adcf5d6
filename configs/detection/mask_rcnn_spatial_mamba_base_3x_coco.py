"""Spatial-Mamba-B, Mask R-CNN 3x: no published figure."""

_base_ = ["../_base_/mask_rcnn_spatial_mamba_base.py", "../_base_/coco_3x.py"]
