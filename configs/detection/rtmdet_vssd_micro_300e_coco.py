"""VSSD-M in a real-time detector, mmdetection's RTMDet-tiny and its recipe: no published figure."""

_base_ = ["mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py"]
custom_imports = dict(
    imports=["visionssm.training", "visionssm.openmmlab"], allow_failed_imports=False
)
runner_type = "StrictRunner"
randomness = dict(seed=0)
default_hooks = dict(
    nonfinite=dict(type="NonFiniteLossHook"),
    checkpoint=dict(_delete_=True, type="LastAndBestHook", monitor="coco/bbox_mAP"),
    progress=dict(type="ProgressHook"),
    metrics_log=dict(type="MetricsLogHook"),
    summary=dict(type="SummaryHook"),
    visualization=dict(_delete_=True, type="PredictionsHook"),
)

model = dict(
    # RGB, as the backbone was trained
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        _delete_=True,
        type="SSMBackbone",
        arch="vssd_micro",
        out_indices=[1, 2, 3],
        drop_path_rate=0.1,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://huggingface.co/YuhengSSS/VSSD/resolve/main/vssd_micro_best.pth",
        ),
    ),
    neck=dict(in_channels=[96, 192, 384]),
)
