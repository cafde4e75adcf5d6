"""Two checkpoints that are always whole: the last state of the run and its best weights."""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..atomic import write_atomic
from ..loop import check_enterable, has_epochs

ATOMIC = {"backend": "atomic"}
RESUMED = (
    "max_iters", "best_score", "best_epoch", "best_step", "last_ckpt", "loss_sum", "summed_from",
)  # fmt: skip


@HOOKS.register_module()
class LastAndBestHook(Hook):
    """Keeps `last.pth` (everything a resume needs) and `best.pth` (weights) in the work directory.

    Each is replaced atomically, so that a run killed at any moment leaves whole files. The last
    state is saved when an epoch and its validation are over, in runs without epochs after every
    validation: a run killed in between repeats what came since, validation and choice of the best
    included. `last_checkpoint` is the marker by which mmengine finds the file to resume. A run that
    begins anew removes those of an earlier one, which would pass for its own.

    Args:
        monitor: validation metric that chooses the best; higher is better, and of equals
            the later, which was trained longer.
        interval_iters: also save every so many steps.

    Raises:
        ValueError: before training, `interval_iters` where no run could resume within an epoch;
            after the first validation, a metric that it does not report.
    """

    priority = "VERY_LOW"

    def __init__(self, monitor: str = "top1", interval_iters: int | None = None) -> None:
        self.monitor = monitor
        self.interval_iters = interval_iters

    def after_val_epoch(self, runner, metrics: dict[str, float]) -> None:
        if self.monitor not in metrics:
            raise ValueError(f"monitor={self.monitor!r}: validation reports {sorted(metrics)}")
        score, best = float(metrics[self.monitor]), runner.message_hub.get_info("best_score")
        if best is None or score >= best:
            runner.message_hub.update_info("best_score", score)
            runner.message_hub.update_info("best_epoch", runner.epoch)
            runner.message_hub.update_info("best_step", runner.iter)
            self._save(runner, "best.pth", runner.iter, resumable=False)
        self.complete_iter = runner.iter

    def before_train(self, runner) -> None:
        if has_epochs(runner) and self.interval_iters:
            check_enterable(runner.train_loop, f"interval_iters={self.interval_iters}")
        # nothing new yet, from scratch or just resumed
        self.saved_iter = self.complete_iter = runner.iter
        if runner.iter == 0 and is_main_process():
            for name in ("last_checkpoint", "last.pth", "best.pth"):
                Path(runner.work_dir, name).unlink(missing_ok=True)

    def before_train_epoch(self, runner) -> None:
        if runner.iter > self.saved_iter:
            self._save_last(runner, runner.iter)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        due = self.interval_iters and runner.iter % self.interval_iters == 0
        if runner.iter > self.saved_iter and (due or self.complete_iter == runner.iter):
            self._save_last(runner, runner.iter)

    def after_train(self, runner) -> None:
        self.before_train_epoch(runner)

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

    def _save_last(self, runner, step: int) -> None:
        self.saved_iter = step
        runner.message_hub.update_info("last_ckpt", str(Path(runner.work_dir, "last.pth")))
        self._save(runner, "last.pth", step, resumable=True)
        if is_main_process():
            marker = Path(runner.work_dir, "last_checkpoint")
            write_atomic(marker, str(Path(runner.work_dir, "last.pth")).encode())

    @staticmethod
    def _save(runner, filename: str, step: int, resumable: bool) -> None:
        runner.save_checkpoint(
            runner.work_dir,
            filename,
            save_optimizer=resumable,
            save_param_scheduler=resumable,
            meta={"epoch": runner.epoch, "iter": step},
            backend_args=ATOMIC,
        )
