"""mmengine's Runner, completed where training needs more."""

import logging
import os
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_distributed
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from visionssm.models import official

from .loop import check_enterable, has_epochs


def read_checkpoint(path: str | Path) -> dict:
    """Load a checkpoint that one of our runs wrote, without running any code it might contain.

    Its tensors are on the CPU.

    Raises:
        ValueError: no such file, a damaged one, one that would need unpickling of foreign code, or
            one without `state_dict`, such as official weights or a run's `model.safetensors`.
    """
    checkpoint = dict(official.read_checkpoint(Path(path), "checkpoint"))
    if "state_dict" not in checkpoint:
        raise ValueError(
            f"checkpoint: {str(path)!r} has {', '.join(list(checkpoint)[:3])}...: expected one of "
            "our runs, such as best.pth, with state_dict"
        )
    return checkpoint


def _not_about_mmengine_itself(record: logging.LogRecord) -> bool:
    """False for the deprecations that mmengine's own saving of checkpoints provokes."""
    return not any(name in record.getMessage() for name in ("FileClient", "HardDiskBackend"))


@RUNNERS.register_module()
class StrictRunner(Runner):
    """Runner that also trains on several CPU processes, trusts no pickle and resumes exactly.

    The console shows warnings and what `ProgressHook` says; the log file in
    `work_dir/<timestamp>/` holds everything that mmengine logs.
    """

    def __init__(
        self, model: Any, work_dir: str, *args, experiment_name: str | None = None, **kwargs
    ) -> None:
        # mmengine keeps loggers and message hubs by this name and the second of the start. Of two
        # runs that begin in one second of one process, the later would write to the first's log.
        name = f"{experiment_name or 'run'} in {Path(work_dir).resolve()}"
        super().__init__(model, work_dir, *args, experiment_name=name, **kwargs)

    def setup_env(self, env_cfg: dict) -> None:
        """Start the process group with gloo first where mmengine would demand CUDA."""
        if self.launcher != "none" and not torch.cuda.is_available() and not is_distributed():
            torch.distributed.init_process_group("gloo")
        super().setup_env(env_cfg)

    def set_randomness(self, seed: int, deterministic: bool = False, **kwargs) -> None:
        """Seed the run; `deterministic` makes it repeat bit for bit on CUDA too, at some cost."""
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS demands one
        super().set_randomness(seed, deterministic=deterministic, **kwargs)

    def build_logger(self, *args, **kwargs) -> logging.Logger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(max(handler.level, logging.WARNING))
                handler.addFilter(_not_about_mmengine_itself)
        return logger

    def dump_config(self) -> None:
        """Write the config into the work directory, unless this runner only tests."""
        if self._train_dataloader is not None:
            super().dump_config()

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap in DistributedDataParallel without device ids on the CPU, which takes none."""
        if self.distributed and not torch.cuda.is_available():
            cpu = {
                "type": "MMDistributedDataParallel",
                "broadcast_buffers": False,
                "find_unused_parameters": self.cfg.get("find_unused_parameters", False),
            }
            model_wrapper_cfg = {**cpu, **(model_wrapper_cfg or {}), "device_ids": None}
        return super().wrap_model(model_wrapper_cfg, model)

    def load_checkpoint(self, filename: str, *args, **kwargs) -> dict:
        """Load weights strictly: `RuntimeError` names every missing or unexpected key."""
        checkpoint = read_checkpoint(filename)
        if self._resume and "optimizer" not in checkpoint:
            raise ValueError(
                f"cannot resume {filename}: it holds weights alone; take last.pth, or begin "
                "a new run with them: load_from and resume=False"
            )
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        model.load_state_dict(checkpoint["state_dict"], strict=True)
        self._has_loaded = True
        self.logger.info(f"Loaded {filename}")
        return checkpoint

    def resume(self, filename: str, *args, **kwargs) -> None:
        """Continue a run, which must be the same run: its schedule cannot change halfway.

        Raises:
            ValueError: the seed or the number of steps differs from those of the checkpoint's run,
                or it stopped within an epoch, which this run's loop or sampler cannot enter.
        """
        seed = self._randomness_cfg.get("seed")
        super().resume(filename, *args, **kwargs)
        if self.seed != seed:
            raise ValueError(
                f"cannot resume {filename}: its run has the seed {self.seed}, this one {seed}. "
                f"Set randomness=dict(seed={self.seed})"
            )
        saved = self.message_hub.get_info("max_iters")
        if saved != self.max_iters:
            raise ValueError(
                f"cannot resume {filename}: its run has {saved} steps, this one {self.max_iters}. "
                "Keep epochs, batch size, number of processes and data, or start a new run from "
                "its weights with load_from"
            )
        if has_epochs(self) and self.iter != self.epoch * len(self.train_dataloader):
            check_enterable(self.train_loop, f"cannot resume {filename} at step {self.iter}")


@RUNNERS.register_module()
class ClassificationRunner(StrictRunner):
    """Runner of `ImageClassifier`, whose outputs are as many as the data has classes."""

    def train(self) -> nn.Module:
        self._check_classes(self.train_dataloader)
        return super().train()

    def test(self) -> dict:
        self._check_classes(self.test_dataloader)
        return super().test()

    def _check_classes(self, dataloader: Any) -> None:
        """Raise ValueError unless the network has one output for each class of the data."""
        model: Any = self.model.module if is_model_wrapper(self.model) else self.model
        classes = dataloader.dataset.metainfo["classes"]
        if model.network.num_classes != len(classes):
            raise ValueError(
                f"num_classes={model.network.num_classes} in model.network, but the data set has "
                f"{len(classes)} classes"
            )
