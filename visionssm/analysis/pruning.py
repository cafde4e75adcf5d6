"""What pruning saves and what it costs: FLOPs, speed, accuracy, and pictures of kept patches."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .._files import replacing
from ..pruning import unprune
from .flops import count_flops

MIN_CALLS = 5


class PruningReport(NamedTuple):
    """A pruned model beside itself without pruning."""

    patches: list[tuple[int, int]]  # block, from 0, and how many patches stay after it
    flops: tuple[int, int]  # of one image, unpruned and pruned; a multiply-add is two
    images_per_s: tuple[float, float] | None  # unpruned and pruned, if they were timed

    def __str__(self) -> str:
        full, pruned = self.flops
        kept = ", ".join(f"{patches} after block {block}" for block, patches in self.patches)
        lines = [
            f"patches   {kept or 'all'} (blocks from 0)",
            f"FLOPs     {full / 1e9:.3f} G -> {pruned / 1e9:.3f} G an image, "
            f"{1 - pruned / full:.1%} fewer",
        ]
        if self.images_per_s is not None:
            before, after = self.images_per_s
            lines.append(
                f"images/s  {before:.4g} -> {after:.4g}, {after / before:.2f} times as many"
            )
        return "\n".join(lines)


@torch.no_grad()
def report_pruning(
    model: Any,
    images: Tensor,
    seconds: float = 0.0,
    prepare: Callable[[Any], Callable[[Tensor], Tensor]] = lambda model: model,
) -> PruningReport:
    """Compare a pruned model with itself unpruned.

    Args:
        model: pruned, in evaluation mode; it is left so.
        images: a batch (b, c, h, w), on the model's device.
        seconds: how long to time each of the two; 0 leaves speed out.
        prepare: what turns the model into the function that is timed, such as `torch.compile`.

    Raises:
        ValueError: the model is not pruned.
    """
    if not hasattr(model, "pruning"):
        raise ValueError(f"model: expected a pruned model, got {type(model).__name__}; call prune")
    pruning, size = model.pruning, (images.shape[1], images.shape[2], images.shape[3])
    patches = [(kept.block, kept.patches.shape[1]) for kept in model.kept_patches(images[:1])]
    flops, speed = [count_flops(model, size)], []
    if seconds:
        speed.append(images_per_s(prepare(model), images, seconds))
    unprune(model)
    try:
        flops.append(count_flops(model, size))
        if seconds:
            speed.append(images_per_s(prepare(model), images, seconds))
    finally:
        pruning.apply(model)
    timed = (speed[1], speed[0]) if seconds else None
    return PruningReport(patches, (flops[1], flops[0]), timed)


def images_per_s(call: Callable[[Tensor], Any], images: Tensor, seconds: float) -> float:
    """By the median of repeated calls, after two that are not timed."""

    def timed_call() -> float:
        begin = time.perf_counter()
        call(images)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        return time.perf_counter() - begin

    for _ in range(2):
        timed_call()
    times: list[float] = []
    while len(times) < MIN_CALLS or sum(times) < seconds:
        times.append(timed_call())
    return len(images) / statistics.median(times)


@torch.no_grad()
def top1(model: Any, loader: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of labelled images (b, c, h, w), (b) that the model classifies correctly."""
    device = next(model.parameters()).device
    right = total = 0
    for images, labels in loader:
        found = model(images.to(device)).argmax(1)
        right += int((found == labels.to(device)).sum())
        total += len(labels)
    return right / total


@torch.no_grad()
def draw_kept_patches(
    model: Any, images: Tensor, pictures: Tensor, path: str | os.PathLike[str]
) -> Path:
    """Write a PNG with a row an image and a column a removal; what was removed is blue.

    Args:
        model: pruned.
        images: a batch as the model takes it (b, c, h, w).
        pictures: the same as they are to be shown (b, h, w, 3), from 0 to 1.
        path: the file to write; it appears whole or not at all.

    Returns:
        The path written.

    Raises:
        ImportError: matplotlib is missing.
    """
    from matplotlib.figure import Figure

    removals = model.kept_patches(images)
    rows, columns = len(images), 1 + len(removals)
    figure = Figure(figsize=(2.4 * columns, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, picture in zip(axes, pictures.cpu(), strict=True):
        row[0].imshow(picture.numpy())
    axes[0, 0].set_title("image")
    for column, kept in enumerate(removals, start=1):
        share = kept.patches.shape[1] / (kept.grid[0] * kept.grid[1])
        axes[0, column].set_title(f"after block {kept.block}: {share:.0%}")
        for row, picture, patches in zip(axes, pictures.cpu(), kept.patches.cpu(), strict=True):
            row[column].imshow(tint_removed(picture, patches, kept.grid).numpy())
    for panel in axes.flatten():
        panel.set_axis_off()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return Path(path)


def tint_removed(picture: Tensor, patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """A picture (h, w, 3) that is nearly blue where it has none of the patches (n) of its grid."""
    kept = torch.zeros(grid[0] * grid[1])
    kept[patches] = 1.0
    kept = F.interpolate(kept.view(1, 1, *grid), size=picture.shape[:2])[0, 0, :, :, None]
    return torch.where(kept > 0, picture, 0.3 * picture + 0.7 * torch.tensor([0.25, 0.4, 0.9]))
