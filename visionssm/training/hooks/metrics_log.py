"""One JSON line an epoch, and the curves drawn from these lines."""

import json
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..atomic import save_figure, write_atomic
from ..loop import has_epochs
from ..metrics import as_floats

METRICS_FILE = "metrics.jsonl"
CURVES_FILE = "curves.png"


def read_metrics(work_dir: str | Path) -> list[dict]:
    """The lines logged so far: dicts with `epoch` (if any), `step`, `lr`, `loss` and `val`."""
    path = Path(work_dir, METRICS_FILE)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@HOOKS.register_module()
class MetricsLogHook(Hook):
    """Writes `metrics.jsonl` after every epoch and `curves.png` when training ends.

    Runs without epochs get a line a validation. `loss` is the mean since the line before, `lr` the
    largest of the parameter groups: under layer decay that of the last layers. A resumed run
    continues the file: lines of what it repeats are replaced.
    """

    priority = "LOW"

    def before_train(self, runner) -> None:
        self.lines = [line for line in read_metrics(runner.work_dir) if line["step"] <= runner.iter]
        if runner.iter == 0:
            self._begin_sum(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        loss_sum = runner.message_hub.get_info("loss_sum") + outputs["loss"].item()
        runner.message_hub.update_info("loss_sum", loss_sum)

    def after_train_epoch(self, runner) -> None:
        if not self._logged(runner):
            self._append(runner, {"epoch": runner.epoch + 1} if has_epochs(runner) else {})

    def after_val_epoch(self, runner, metrics: dict[str, float]) -> None:
        if not hasattr(self, "lines"):  # outside training
            return
        if not self._logged(runner):
            self._append(runner, {})
        self.lines[-1]["val"] = as_floats(metrics)
        self._write(runner)

    @master_only
    def after_train(self, runner) -> None:
        draw_curves(self.lines, Path(runner.work_dir, CURVES_FILE))

    def _logged(self, runner) -> bool:
        return bool(self.lines) and self.lines[-1]["step"] == runner.iter

    def _append(self, runner, line: dict) -> None:
        steps = runner.iter - runner.message_hub.get_info("summed_from")
        line |= {
            "step": runner.iter,
            "lr": max(runner.optim_wrapper.get_lr()["lr"]),
            "loss": runner.message_hub.get_info("loss_sum") / steps,
        }
        self.lines.append(line)
        self._begin_sum(runner)
        self._write(runner)

    def _begin_sum(self, runner) -> None:
        runner.message_hub.update_info("loss_sum", 0.0)
        runner.message_hub.update_info("summed_from", runner.iter)

    @master_only
    def _write(self, runner) -> None:
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        write_atomic(Path(runner.work_dir, METRICS_FILE), text.encode())


def draw_curves(lines: list[dict], path: Path) -> None:
    """Draw loss (training and validation) and validation metrics over steps as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, metric = figure.subplots(1, 2)
    loss.plot(
        [line["step"] for line in lines],
        [line["loss"] for line in lines],
        label="training (augmented)",
    )
    validated = [line for line in lines if "val" in line]
    steps = [line["step"] for line in validated]
    for name in validated[0]["val"] if validated else ():
        values = [line["val"][name] for line in validated]
        if name == "cross_entropy":
            loss.plot(steps, values, label="validation")
        else:
            metric.plot(steps, values, label=name)
    loss.set(xlabel="step", ylabel="loss", title="Loss")
    metric.set(xlabel="step", title="Validation")
    for axes in (loss, metric):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    save_figure(figure, path)
