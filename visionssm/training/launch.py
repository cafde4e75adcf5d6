"""From a config file to a finished run: what `tools/train.py` and `tools/test.py` call."""

import copy
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import barrier
from mmengine.registry import RUNNERS
from mmengine.runner import find_latest_checkpoint

from .hooks.checkpoint import best_weights

AMP_WRAPPERS = {"bfloat16": "BFloat16OptimWrapper", "float16": "AmpOptimWrapper"}
TRAINING_KEYS = (
    "train_dataloader",
    "train_cfg",
    "optim_wrapper",
    "param_scheduler",
    "val_dataloader",
    "val_cfg",
    "val_evaluator",
)


def load_config(
    path: str,
    work_dir: str | None = None,
    cfg_options: dict | None = None,
    launcher: str = "none",
) -> Config:
    """Read a config file and apply the command line to it.

    Args:
        path: mmengine config.
        work_dir: where everything is written; default `work_dirs/<config name>`.
        cfg_options: dotted keys to override, such as `{'train_cfg.max_epochs': 3}`.
        launcher: `none`, or `pytorch` under torchrun, `slurm`, `mpi`.

    Raises:
        ValueError: no such file.
    """
    if not Path(path).is_file():
        raise ValueError(f"config {path!r}: no such file")
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(cfg_options or {})
    cfg.work_dir = work_dir or cfg.get("work_dir") or f"work_dirs/{Path(path).stem}"
    cfg.launcher = launcher
    return cfg


def use_amp(cfg: Config, dtype: str) -> None:
    """Train under autocast to `dtype`, bfloat16 on any device or float16 on CUDA.

    Where parameters are sharded (`use_fsdp`), mmengine's own wrapper does it.

    Raises:
        ValueError: another dtype, or float16 without CUDA.
    """
    if dtype not in AMP_WRAPPERS:
        raise ValueError(f"amp={dtype!r}: expected one of {sorted(AMP_WRAPPERS)}")
    if dtype == "float16" and not torch.cuda.is_available():
        raise ValueError("amp='float16' needs CUDA; on the CPU use amp='bfloat16'")
    sharded = cfg.optim_wrapper.get("use_fsdp", False)
    cfg.optim_wrapper.type = "AmpOptimWrapper" if sharded else AMP_WRAPPERS[dtype]
    for key in ("dtype", "loss_scale"):
        cfg.optim_wrapper.pop(key, None)
    if cfg.optim_wrapper.type == "AmpOptimWrapper":
        cfg.optim_wrapper.dtype = dtype


def train(cfg: Config, resume: bool = False) -> None:
    """Train, then test the weights that did best in validation, if the config has a test set.

    Args:
        cfg: from `load_config`. Its `resume=True` continues from its `load_from`, as everywhere in
            mmengine, and without one does what the argument does.
        resume: continue from the last checkpoint in `cfg.work_dir`, or begin if there is none.
    """
    cfg = copy.deepcopy(cfg)
    checkpoint = None
    if resume or cfg.get("resume"):
        given = None if resume else cfg.get("load_from")
        checkpoint = given or _last_checkpoint(cfg.work_dir)
    cfg.resume = checkpoint is not None
    if checkpoint is not None:
        cfg.load_from = checkpoint
    runner = RUNNERS.build(cfg)
    runner.train()
    barrier()  # the main process writes the best weights
    best = best_weights(runner)
    del runner  # makes room for the model that is tested
    if cfg.get("test_dataloader") is not None and best is not None:
        test(cfg, str(best))


def leave_process_group() -> None:
    """End this process's part in a group that a launcher's runner joined, if there is one.

    For a program that is about to end, as PyTorch's documentation asks.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _last_checkpoint(work_dir: str) -> str | None:
    """Ours, wherever the work directory was moved to, else the one that mmengine's marker names."""
    last = Path(work_dir, "last.pth")
    return str(last) if last.exists() else find_latest_checkpoint(work_dir)


def test(cfg: Config, checkpoint: str) -> dict[str, float]:
    """Evaluate a checkpoint of ours on the test set and return the metrics.

    Args:
        cfg: from `load_config`.
        checkpoint: `best.pth` or `last.pth` of a run; averaged weights where it has them.

    Raises:
        ValueError: the config has no test set, or the file cannot be read safely.
    """
    if cfg.get("test_dataloader") is None:
        raise ValueError("this config has no test_dataloader")
    cfg = copy.deepcopy(cfg)
    for key in TRAINING_KEYS:
        cfg.pop(key, None)
    cfg.load_from, cfg.resume = checkpoint, False
    return RUNNERS.build(cfg).test()
