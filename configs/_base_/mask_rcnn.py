"""Mask R-CNN with FPN as in mmdetection, on a backbone of ours."""

_base_ = ["mmdet::_base_/models/mask-rcnn_r50_fpn.py"]

model = dict(backbone=dict(_delete_=True, type="SSMBackbone"))
