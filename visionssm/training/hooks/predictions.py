"""Pictures of what a detector or segmentor finds, beside the truth."""

from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image

from ..atomic import save_figure

PREDICTIONS_FILE = "predictions.png"
OPACITY = 0.55


@HOOKS.register_module()
class PredictionsHook(Hook):
    """Draws `predictions.png` after a test: the truth of some images, and below it the predictions.

    Boxes and masks of mmdetection's samples, label maps of mmsegmentation's; those of the main
    process. The test pipeline must load annotations.

    Args:
        images: how many to show, the first ones.
        min_score: leaves out boxes and masks that are less certain.
    """

    priority = "LOW"

    def __init__(self, images: int = 4, min_score: float = 0.5) -> None:
        self.images = images
        self.min_score = min_score

    def before_test_epoch(self, runner) -> None:
        self.samples: list[Any] = []

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        wanted = self.images - len(self.samples)
        self.samples += [sample.cpu() for sample in outputs[:wanted]]

    @master_only
    def after_test_epoch(self, runner, metrics: dict[str, float]) -> None:
        classes = runner.test_dataloader.dataset.metainfo["classes"]
        figure = draw_predictions(self.samples, classes, self.min_score)
        save_figure(figure, Path(runner.work_dir, PREDICTIONS_FILE))


def draw_predictions(samples: list, classes: tuple[str, ...], min_score: float):
    """Return a figure: a column a sample, truth above predictions, on the image of its path."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    colours = colormaps["hsv"](np.linspace(0, 1, len(classes), endpoint=False))[:, :3]
    figure: Any = Figure(figsize=(5 * len(samples), 9), layout="constrained")
    rows = figure.subplots(2, len(samples), squeeze=False)
    for row, kind in zip(rows, ("gt", "pred"), strict=True):
        for axes, sample in zip(row, samples, strict=True):
            image = np.asarray(Image.open(sample.img_path).convert("RGB")) / 255
            axes.axis("off")
            if hasattr(sample, f"{kind}_sem_seg"):
                labels = getattr(sample, f"{kind}_sem_seg").data[0].numpy()
                axes.imshow(_blend_labels(image, labels, colours))
            else:
                found = getattr(sample, f"{kind}_instances")
                if kind == "pred":
                    found = found[found.scores >= min_score]
                _draw_instances(axes, image, found, classes, colours)
    rows[0, 0].set_title("truth", loc="left")
    rows[1, 0].set_title("predicted", loc="left")
    return figure


def _blend_labels(image: np.ndarray, labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Colours (classes, 3) over an image (h, w, 3); what is no class stays as it is."""
    known = labels < len(colours)
    blend = image.copy()
    blend[known] = (1 - OPACITY) * image[known] + OPACITY * colours[labels[known]]
    return blend


def _masks(found) -> np.ndarray:
    """(n, h, w) of n instances, whose masks are a tensor or one of mmdetection's classes."""
    masks = found.masks
    return masks.numpy() if hasattr(masks, "numpy") else masks.to_ndarray()


def _draw_instances(axes, image: np.ndarray, found, classes: tuple[str, ...], colours) -> None:
    from matplotlib.patches import Rectangle

    masks = _masks(found) if "masks" in found else ()
    for label, mask in zip(found.labels.tolist(), masks, strict=False):
        image = _blend_labels(image, np.where(mask, label, len(classes)), colours)
    axes.imshow(image)
    boxes = getattr(found.bboxes, "tensor", found.bboxes).tolist()
    scores = found.scores.tolist() if "scores" in found else [None] * len(boxes)
    for (left, top, right, bottom), label, score in zip(
        boxes, found.labels.tolist(), scores, strict=True
    ):
        text = classes[label] if score is None else f"{classes[label]} {score:.2f}"
        corner, width, height = (left, top), right - left, bottom - top
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colours[label]))
        axes.text(left, top - 2, text, fontsize=6, color="white", backgroundcolor=colours[label])
