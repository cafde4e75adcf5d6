"""VMamba-B[s1l20] with parameters, gradients and optimizer state sharded over the processes.

mmengine's strategy brings its own runner and checkpoints; averaged weights are left out, for its
EMA hook copies the whole model to every process. Start with torchrun and `--launcher pytorch`.
"""

_base_ = "vmamba_base_s1l20_imagenet.py"

runner_type = "FlexibleRunner"
strategy = dict(
    type="FSDPStrategy",
    state_dict_cfg="full",
    model_wrapper=dict(
        type="MMFullyShardedDataParallel",
        use_orig_params=True,  # keeps the shapes by which parameters are exempt from decay
        auto_wrap_policy=dict(
            type="torch.distributed.fsdp.wrap.size_based_auto_wrap_policy",
            min_num_params=1_000_000,
        ),
    ),
)
optim_wrapper = dict(dtype="bfloat16", use_fsdp=True)
default_hooks = dict(
    _delete_=True,
    seed=dict(type="SeedHook"),
    nonfinite=dict(type="NonFiniteLossHook"),
    checkpoint=dict(type="CheckpointHook", save_best="top1", rule="greater", max_keep_ckpts=2),
    logger=dict(type="LoggerHook", interval=50),
    progress=dict(type="ProgressHook"),
    metrics_log=dict(type="MetricsLogHook"),
)
