"""A picture of what a classifier confuses, with examples."""

from pathlib import Path
from typing import Any

import torch
from mmengine.dist import collect_results, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor

from ..atomic import save_figure

CONFUSION_FILE = "confusion.png"


@HOOKS.register_module()
class ConfusionHook(Hook):
    """Draws `confusion.png` after a test: the confusion matrix beside the surest mistakes.

    The matrix counts the samples of all processes, the examples come from the main one.

    Args:
        examples: how many mistakes to show.
    """

    priority = "LOW"

    def __init__(self, examples: int = 12) -> None:
        self.examples = examples

    def before_test_epoch(self, runner) -> None:
        self.pairs: list[tuple[int, int]] = []
        self.mistakes: list[tuple[float, int, int, Tensor]] = []

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        for image, output in zip(data_batch["inputs"], outputs, strict=True):
            score, prediction = (value.item() for value in output["scores"].max(0))
            self.pairs.append((output["target"], prediction))
            if prediction != output["target"]:
                self.mistakes.append((score, output["target"], prediction, image))
        self.mistakes = sorted(self.mistakes, key=lambda mistake: -mistake[0])[: self.examples]

    def after_test_epoch(self, runner, metrics: dict[str, float]) -> None:
        dataset = runner.test_dataloader.dataset
        pairs = collect_results(self.pairs, len(dataset), "gpu")
        if is_main_process():
            classes = dataset.metainfo["classes"]
            figure = draw_confusion(pairs, self.mistakes, classes)
            save_figure(figure, Path(runner.work_dir, CONFUSION_FILE))


def draw_confusion(pairs: list, mistakes: list, classes: tuple[str, ...]):
    """Return a figure from (target, prediction) pairs and (score, target, prediction, image)s.

    Images are normalised tensors (3, h, w); each is shown scaled to its own range.
    """
    from matplotlib.figure import Figure

    targets, predictions = torch.tensor(pairs).T
    matrix = torch.bincount(targets * len(classes) + predictions, minlength=len(classes) ** 2)
    matrix = matrix.reshape(len(classes), len(classes))
    figure: Any = Figure(figsize=(12, 5.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1))
    _draw_matrix(left.subplots(), matrix, classes)
    accuracy = 100 * matrix.trace() / matrix.sum()
    left.suptitle(f"{accuracy:.2f} % of {matrix.sum()} images")
    right.suptitle("Surest mistakes" if mistakes else "No mistakes")
    columns = 4
    rows = max(-(-len(mistakes) // columns), 1)
    for axes in right.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, (score, target, prediction, image) in zip(right.axes, mistakes, strict=False):
        low, high = image.min(), image.max()
        axes.imshow(((image - low) / (high - low).clamp_min(1e-6)).permute(1, 2, 0).numpy())
        title = f"{classes[prediction]} ({score:.0%})\nis {classes[target]}"
        axes.set_title(title, fontsize=8)
    return figure


def _draw_matrix(axes, matrix: Tensor, classes: tuple[str, ...]) -> None:
    axes.imshow(matrix.float().log1p().numpy(), cmap="Blues")
    axes.set(xlabel="predicted", ylabel="true")
    if len(classes) > 30:
        return
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    middle = matrix.max().float().log1p() / 2
    for row, column in matrix.nonzero().tolist():
        count = matrix[row, column]
        color = "white" if count.float().log1p() > middle else "black"
        axes.text(column, row, int(count), ha="center", va="center", color=color, fontsize=8)
