"""Two checkpoints that are always whole: the last state of the run and its best weights."""

import math
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..atomic import write_atomic
from ..loop import check_enterable, has_epochs

ATOMIC = {"backend": "atomic"}
RESUMED = (
    "max_iters", "best_score", "best_epoch", "best_step", "last_ckpt", "loss_sum", "summed_from",
    "train_seconds",
)  # fmt: skip


def best_weights(runner) -> Path | None:
    """The `best.pth` that `LastAndBestHook` made in this run, if there is one."""
    path = Path(runner.work_dir, "best.pth")
    chosen = runner.message_hub.get_info("best_step") is not None
    return path if chosen and path.exists() else None


@HOOKS.register_module()
class LastAndBestHook(Hook):
    """Keeps `last.pth` (everything a resume needs) and `best.pth` (weights) in the work directory.

    Each is replaced atomically, so that a run killed at any moment leaves whole files. The last
    state is saved when an epoch and its validation are over, in runs without epochs after every
    validation; where gradients are accumulated, at the next step that has none pending. A run
    killed in between repeats what came since, validation and choice of the best included.
    `last_checkpoint` is the marker by which mmengine finds the file to resume. A run that begins
    anew removes all three of an earlier run, which would pass for its own.

    Args:
        monitor: validation metric that chooses the best; higher is better, and of equals
            the later, which was trained longer. NaN is never best, nor is no report at all.
        interval_iters: also save every so many steps.

    Raises:
        ValueError: before training, `interval_iters`, or gradients accumulated from one epoch to
            the next, where no run could resume within an epoch; after the first validation that
            reports anything, a metric that it does not report.
    """

    priority = "VERY_LOW"

    def __init__(self, monitor: str = "top1", interval_iters: int | None = None) -> None:
        self.monitor = monitor
        self.interval_iters = interval_iters

    def after_val_epoch(self, runner, metrics: dict[str, float]) -> None:
        if not hasattr(self, "saved_iter"):  # outside training
            return
        self.due = True
        if not metrics:  # CocoMetric reports nothing where nothing is detected
            runner.logger.warning("validation reports nothing: these weights are not the best")
            return
        if self.monitor not in metrics:
            self._save_if_due(runner)  # what was trained can be resumed with a better monitor
            raise ValueError(f"monitor={self.monitor!r}: validation reports {sorted(metrics)}")
        score = float(metrics[self.monitor])
        if score >= runner.message_hub.get_info("best_score", -math.inf):  # never NaN
            runner.message_hub.update_info("best_score", score)
            runner.message_hub.update_info("best_epoch", runner.epoch)
            runner.message_hub.update_info("best_step", runner.iter)
            self._save(runner, "best.pth", resumable=False)

    def before_train(self, runner) -> None:
        counts = runner.optim_wrapper._accumulative_counts
        if has_epochs(runner) and self.interval_iters:
            check_enterable(runner.train_loop, f"interval_iters={self.interval_iters}")
        if has_epochs(runner) and len(runner.train_dataloader) % counts:
            steps = f"{len(runner.train_dataloader)} steps an epoch"
            check_enterable(runner.train_loop, f"accumulative_counts={counts}, {steps}")
        self.due = False
        self.saved_iter = runner.iter  # nothing new yet, from scratch or just resumed
        if runner.iter == 0 and is_main_process():
            for name in ("last_checkpoint", "last.pth", "best.pth"):
                Path(runner.work_dir, name).unlink(missing_ok=True)

    def before_train_epoch(self, runner) -> None:
        self.due = True
        self._save_if_due(runner)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.due |= bool(self.interval_iters) and runner.iter % self.interval_iters == 0
        self._save_if_due(runner)

    def after_train(self, runner) -> None:
        if runner.iter > self.saved_iter:
            self._save_last(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keep plain facts of mmengine's log, not histories that only unpickling could restore."""
        info = checkpoint["message_hub"]["runtime_info"]
        info = {key: info[key] for key in RESUMED if key in info}
        resumed = dict.fromkeys(info, True)
        checkpoint["message_hub"] = {
            "log_scalars": {},
            "runtime_info": info,
            "resumed_keys": resumed,
        }

    def _save_if_due(self, runner) -> None:
        if not self.due or not runner.optim_wrapper.should_update():  # gradients are pending
            return
        self.due = False
        if runner.iter > self.saved_iter:
            self._save_last(runner)

    def _save_last(self, runner) -> None:
        self.saved_iter = runner.iter
        runner.message_hub.update_info("last_ckpt", str(Path(runner.work_dir, "last.pth")))
        self._save(runner, "last.pth", resumable=True)
        if is_main_process():
            marker = Path(runner.work_dir, "last_checkpoint")
            write_atomic(marker, str(Path(runner.work_dir, "last.pth")).encode())

    @staticmethod
    def _save(runner, filename: str, resumable: bool) -> None:
        runner.save_checkpoint(
            runner.work_dir,
            filename,
            save_optimizer=resumable,
            save_param_scheduler=resumable,
            meta={"epoch": runner.epoch, "iter": runner.iter},
            backend_args=ATOMIC,
        )
