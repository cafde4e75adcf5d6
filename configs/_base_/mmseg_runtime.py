"""What mmsegmentation's runs share besides: steps are counted, not epochs."""

_base_ = ["training.py"]
custom_imports = dict(
    imports=["visionssm.training", "visionssm.openmmlab"], allow_failed_imports=False
)
default_scope = "mmseg"
log_processor = dict(by_epoch=False)
tta_model = dict(type="SegTTAModel")

default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(monitor="mIoU"),
    predictions=dict(type="PredictionsHook"),
)
