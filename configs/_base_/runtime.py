"""What every classification run shares."""

_base_ = ["training.py"]

runner_type = "ClassificationRunner"
default_hooks = dict(
    checkpoint=dict(monitor="top1"),
    confusion=dict(type="ConfusionHook"),
    export=dict(type="ExportHook"),
)
val_evaluator = dict(type="TopKAccuracy", topk=(1, 5))
test_evaluator = val_evaluator
