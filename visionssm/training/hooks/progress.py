"""What the console shows of a run: how far it is, how well it does, when it ends."""

import sys
import time
from datetime import timedelta

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tqdm import tqdm

from ..loop import has_epochs

SECONDS_BETWEEN_LINES = 10.0


@HOOKS.register_module()
class ProgressHook(Hook):
    """A tqdm bar with ETA on a terminal; elsewhere a line every 10 seconds; both after validation.

    Only the main process speaks.
    """

    priority = "LOWEST"

    def before_train(self, runner) -> None:
        self.silent = not is_main_process()
        self.terminal = sys.stderr.isatty()
        self.started = self.spoken = time.monotonic()
        self.first_iter = runner.iter
        self.bar = tqdm(
            total=runner.max_iters,
            initial=runner.iter,
            desc="training",
            unit="step",
            disable=self.silent or not self.terminal,
        )

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        loss = outputs["loss"].item()
        self.bar.set_postfix(epoch=runner.epoch + 1, loss=f"{loss:.3f}", refresh=False)
        self.bar.update()
        if not self.terminal and time.monotonic() - self.spoken > SECONDS_BETWEEN_LINES:
            self._say(f"{self._where(runner, runner.iter + 1)}  loss {loss:.4f}")

    def after_val_epoch(self, runner, metrics: dict[str, float]) -> None:
        if hasattr(self, "bar"):
            values = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            self._say(f"{self._where(runner, runner.iter)}  validation: {values}")

    def after_train(self, runner) -> None:
        self.bar.close()

    def after_test_epoch(self, runner, metrics: dict[str, float]) -> None:
        if is_main_process():
            values = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            print(f"test: {values}", flush=True)

    def _where(self, runner, step: int) -> str:
        """Such as `epoch 3/10  step 120/400  eta 0:00:41`; some runs have no epochs."""
        epoch = min(-(-step * runner.max_epochs // runner.max_iters), runner.max_epochs)
        where = f"step {step}/{runner.max_iters}"
        if has_epochs(runner):
            where = f"epoch {epoch}/{runner.max_epochs}  {where}"
        pace = (time.monotonic() - self.started) / max(step - self.first_iter, 1)
        eta = timedelta(seconds=round(pace * (runner.max_iters - step)))
        return f"{where}  eta {eta}"

    def _say(self, line: str) -> None:
        self.spoken = time.monotonic()
        if not self.silent:
            tqdm.write(line)
            sys.stdout.flush()
