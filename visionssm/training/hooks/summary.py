"""The run in one small JSON file."""

import json
import platform
import time
from pathlib import Path

import mmengine
import timm
import torch
from mmengine.dist import get_world_size, master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from visionssm.version import __version__

from ..atomic import write_atomic
from ..loop import has_epochs
from ..metrics import as_floats

SUMMARY_FILE = "summary.json"


@HOOKS.register_module()
class SummaryHook(Hook):
    """Writes `summary.json` when training ends and adds to it what a test measures.

    Keys: model, parameters, device, processes, versions, epochs (if the run counts them), steps,
    best_epoch, best_step, best_validation_score, train_seconds (of all parts of a resumed run,
    each until its last checkpoint); after a test also test (all metrics), test_accuracy (of a
    classifier, a fraction), test_dataset (its config) and seconds, of training and testing
    together.
    """

    priority = "LOWEST"

    def before_run(self, runner) -> None:
        self.started = time.monotonic()

    def before_train(self, runner) -> None:
        self.seconds_before = runner.message_hub.get_info("train_seconds", 0.0)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._note_seconds(runner)

    def after_val_epoch(self, runner, metrics: dict[str, float]) -> None:
        if hasattr(self, "seconds_before"):  # else outside training
            self._note_seconds(runner)

    def _note_seconds(self, runner) -> None:
        seconds = self.seconds_before + time.monotonic() - self.started
        runner.message_hub.update_info("train_seconds", seconds)

    @master_only
    def after_train(self, runner) -> None:
        self._note_seconds(runner)
        summary = {
            "model": _model_name(runner.cfg.model),
            "parameters": sum(p.numel() for p in runner.model.parameters()),
            "device": _device_name(),
            "processes": get_world_size(),
            "versions": _versions(),
            "steps": runner.iter,
            "best_step": runner.message_hub.get_info("best_step"),
            "best_validation_score": runner.message_hub.get_info("best_score"),
            "train_seconds": round(runner.message_hub.get_info("train_seconds"), 1),
        }
        if has_epochs(runner):
            summary["epochs"] = runner.epoch
            summary["best_epoch"] = runner.message_hub.get_info("best_epoch")
        _write(runner.work_dir, summary)

    @master_only
    def after_test_epoch(self, runner, metrics: dict[str, float]) -> None:
        path = Path(runner.work_dir, SUMMARY_FILE)
        summary = json.loads(path.read_text()) if path.exists() else {}
        test_seconds = time.monotonic() - self.started
        summary |= {
            "test": as_floats(metrics),
            "test_dataset": runner.cfg.test_dataloader.dataset.to_dict(),
            "seconds": round(summary.get("train_seconds", 0.0) + test_seconds, 1),
        }
        if "top1" in metrics:
            summary["test_accuracy"] = metrics["top1"] / 100
        _write(runner.work_dir, summary)


def _model_name(model: dict) -> str:
    """`vmamba_tiny_s1l8` of a classifier, `MaskRCNN on vmamba_tiny_s1l8` of a detector; a type."""
    if "network" in model:
        return model["network"]["model_name"]
    if "backbone" not in model:
        return model["type"]
    backbone = model["backbone"]
    return f"{model['type']} on {backbone.get('arch', backbone['type'])}"


def _write(work_dir: str, summary: dict) -> None:
    write_atomic(Path(work_dir, SUMMARY_FILE), (json.dumps(summary, indent=2) + "\n").encode())


def _device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu ({torch.get_num_threads()} threads)"


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "visionssm": __version__,
        **{module.__name__: module.__version__ for module in (torch, timm, mmengine)},
    }
