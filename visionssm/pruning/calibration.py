"""Calibration: where a model can do with fewer tokens, measured by what its output loses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .importance import Importance
from .protocol import prune, unprune
from .schedule import Schedule

MAX_BLOCKS = 6  # places that the search considers, evenly spaced, unless told
STEP = 0.1  # by which a trial lowers a rate
LOWEST = 0.3  # rate that a block is brought to at most


@torch.no_grad()
def calibrate(
    model: Any,
    loader: Iterable[Tensor | Sequence[Any]],
    target_flops: float = 0.6,
    *,
    blocks: Sequence[int] | None = None,
    importance: str | Importance = "scan",
    mode: str = "align",
    time: str = "gap_power",
    seed: int = 0,
) -> Schedule:
    """Find how many tokens to keep after which blocks, for a share of the FLOPs.

    From all tokens on, the rate of one block is lowered by a tenth at a time: of the one where that
    changes the output least for the FLOPs it saves. The change is the squared difference to the
    unpruned output over the square of that. No labels are used. Some tens of passes over the
    images; a hundred or so of them suffice.

    Args:
        model: what `prune` takes, in the mode (evaluation) in which it will be used. It is left as
            it was, pruned or not.
        loader: batches of images (b, c, h, w), alone or as the first of a tuple; they are read
            once, kept, and moved to the model's device.
        target_flops: share of the unpruned FLOPs to come down to.
        blocks: where tokens may be removed, counted from 0; by default up to six places.
        importance: as in `prune`, as are mode, time and seed.
        mode: see `prune`.
        time: see `prune`.
        seed: see `prune`.

    Returns:
        A schedule, for ``prune(model, keep=schedule, ...)``.

    Raises:
        ValueError: target_flops is not between 0 and 1, or not to be reached at these blocks; the
            loader is empty; or `prune` refuses the model or an argument.
    """
    if not 0 < target_flops < 1:
        raise ValueError(f"target_flops: expected a share between 0 and 1, got {target_flops}")
    device = next(model.parameters()).device
    batches = [(b if isinstance(b, Tensor) else b[0]).to(device) for b in loader]
    if not batches:
        raise ValueError("loader: expected at least one batch of images, got none")
    before = getattr(model, "pruning", None)
    how: dict[str, Any] = {"importance": importance, "mode": mode, "time": time, "seed": seed}
    try:
        prune(model, 1.0, **how)
        blocks = _spread(model.prunable_blocks()[0]) if blocks is None else blocks
        truth, full = _run(model, batches)

        def trial(keep: dict[int, float]) -> tuple[float, float]:
            outputs, flops = _run(prune(model, keep, **how), batches)
            return _change(outputs, truth), flops / full

        keep, change, share = dict.fromkeys(blocks, 1.0), 0.0, 1.0
        while share > target_flops:
            best = (math.inf, keep, change, share)
            for block in (b for b in blocks if keep[b] - STEP >= LOWEST):
                lower = {**keep, block: round(keep[block] - STEP, 6)}
                new_change, new_share = trial(lower)
                if new_share < share:
                    cost = (new_change - change) / (share - new_share)
                    best = min(best, (cost, lower, new_change, new_share), key=lambda t: t[0])
            if best[1] is keep:
                raise ValueError(
                    f"target_flops: {share:.3g} is the least for this model at the blocks "
                    f"{list(blocks)}, got {target_flops}"
                )
            _, keep, change, share = best
    finally:
        unprune(model)
        if before is not None:
            before.apply(model)
    return Schedule(keep)


def _spread(blocks: Sequence[int]) -> list[int]:
    """At most MAX_BLOCKS of the blocks, evenly spaced, the first ones of their intervals."""
    count = min(MAX_BLOCKS, len(blocks))
    return [blocks[len(blocks) * i // count] for i in range(count)]


def _run(model: Any, batches: list[Tensor]) -> tuple[list[Tensor], int]:
    with FlopCounterMode(display=False) as counter:
        outputs = [model(images) for images in batches]
    return outputs, counter.get_total_flops()


def _change(outputs: list[Tensor], truth: list[Tensor]) -> float:
    pairs = list(zip(outputs, truth, strict=True))
    difference = sum(float((found - true).float().square().sum()) for found, true in pairs)
    return difference / sum(float(true.float().square().sum()) for true in truth)
