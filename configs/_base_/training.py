"""What every run shares, whatever its task: the runner, its hooks, logs and the seed."""

custom_imports = dict(imports=["visionssm.training"], allow_failed_imports=False)
runner_type = "StrictRunner"
default_scope = "mmengine"
randomness = dict(seed=0)
env_cfg = dict(cudnn_benchmark=True, dist_cfg=dict(backend="nccl"))

default_hooks = dict(
    seed=dict(type="SeedHook"),
    nonfinite=dict(type="NonFiniteLossHook"),
    checkpoint=dict(type="LastAndBestHook"),
    logger=dict(type="LoggerHook", interval=50),
    progress=dict(type="ProgressHook"),
    metrics_log=dict(type="MetricsLogHook"),
    summary=dict(type="SummaryHook"),
)
visualizer = dict(type="Visualizer", vis_backends=[dict(type="TensorboardVisBackend")])

val_cfg = dict()
test_cfg = dict()
