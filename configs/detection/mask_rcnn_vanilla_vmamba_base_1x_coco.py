"""VMamba-B, first version, Mask R-CNN 1x: published AP 48.6 of boxes, 43.3 of masks."""

_base_ = ["../_base_/mask_rcnn_vanilla_vmamba_base.py", "../_base_/coco_1x.py"]
