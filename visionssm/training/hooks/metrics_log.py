"""One JSON line an epoch, and the curves drawn from these lines."""

import json
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..atomic import save_figure, write_atomic

METRICS_FILE = "metrics.jsonl"
CURVES_FILE = "curves.png"


def read_metrics(work_dir: str | Path) -> list[dict]:
    """The epochs logged so far: dicts with `epoch`, `step`, `lr`, `loss` and `val`."""
    path = Path(work_dir, METRICS_FILE)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@HOOKS.register_module()
class MetricsLogHook(Hook):
    """Writes `metrics.jsonl` after every epoch and `curves.png` when training ends.

    A resumed run continues the file: lines of epochs that it repeats are replaced.
    """

    priority = "LOW"

    def before_train(self, runner) -> None:
        self.lines = [line for line in read_metrics(runner.work_dir) if line["step"] <= runner.iter]

    def before_train_epoch(self, runner) -> None:
        if runner.iter == runner.epoch * len(runner.train_dataloader):
            runner.message_hub.update_info("epoch_loss", 0.0)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        loss_sum = runner.message_hub.get_info("epoch_loss") + outputs["loss"].item()
        runner.message_hub.update_info("epoch_loss", loss_sum)

    def after_train_epoch(self, runner) -> None:
        line = {
            "epoch": runner.epoch + 1,
            "step": runner.iter,
            "lr": runner.optim_wrapper.get_lr()["lr"][0],
            "loss": runner.message_hub.get_info("epoch_loss") / len(runner.train_dataloader),
        }
        self._append(runner, line)

    def after_val_epoch(self, runner, metrics: dict[str, float]) -> None:
        if getattr(self, "lines", None):
            self._append(runner, {**self.lines.pop(), "val": metrics})

    @master_only
    def after_train(self, runner) -> None:
        draw_curves(self.lines, Path(runner.work_dir, CURVES_FILE))

    @master_only
    def _append(self, runner, line: dict) -> None:
        self.lines.append(line)
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        write_atomic(Path(runner.work_dir, METRICS_FILE), text.encode())


def draw_curves(lines: list[dict], path: Path) -> None:
    """Draw loss (training and validation) and validation accuracy over epochs as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(
        [line["epoch"] for line in lines],
        [line["loss"] for line in lines],
        label="training (augmented)",
    )
    validated = [line for line in lines if "val" in line]
    epochs = [line["epoch"] for line in validated]
    for name in validated[0]["val"] if validated else ():
        values = [line["val"][name] for line in validated]
        if name == "cross_entropy":
            loss.plot(epochs, values, label="validation")
        else:
            accuracy.plot(epochs, values, label=name)
    loss.set(xlabel="epoch", ylabel="cross entropy", title="Loss")
    accuracy.set(xlabel="epoch", ylabel="percent", title="Validation accuracy")
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    save_figure(figure, path)
