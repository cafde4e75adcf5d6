"""Importance: how much each token matters, from what a block has just computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class BlockOutput(NamedTuple):
    """What an importance function sees of a block."""

    tokens: Tensor  # (b, l, c) features after the block, class token included
    scanned: Tensor  # (b, l, d) gated output of the mixer's scan, before its output projection
    positions: Tensor  # (b, l) place of each token in the unpruned sequence
    block: int  # counted from 0
    seed: int


Importance = Callable[[BlockOutput], Tensor]  # to scores (b, l), the larger the more important


def scan_importance(output: BlockOutput) -> Tensor:
    """Sum over channels of the positive part of the mixer's own output, (b, l).

    Source: Exploring Token Pruning in Vision State Space Models, arXiv 2409.18962, section 4.2; the
    mean over channels there ranks alike. Its released code takes the reverse direction alone, sums
    without taking the positive part, and reads the scores backwards; none of that is done here.
    """
    return positive_sum(output.scanned)


def positive_sum(x: Tensor) -> Tensor:
    """Sum of the positive values over the channels: (..., d) to (...), float32 or float64."""
    return x.clamp(min=0).sum(-1, dtype=torch.promote_types(x.dtype, torch.float32))


def norm_importance(output: BlockOutput) -> Tensor:
    """Euclidean norm of the features after the block, (b, l)."""
    return output.tokens.float().norm(dim=-1)


def random_importance(output: BlockOutput) -> Tensor:
    """A number without meaning, (b, l), of seed, block, place in the batch, and position.

    An integer hash, for a generator's state could be no part of a compiled graph.
    """
    b, _ = output.positions.shape
    image = torch.arange(b, device=output.positions.device)[:, None]
    key = output.positions
    # By xor, and not in one sum: that would be an index expression to the compiler, which cannot
    # multiply those by more than 32 bits on CUDA.
    for part in (output.seed & 0x7FFFFFFF, output.block, image):
        key = key ^ part
        for shift in (16, 15):  # Wang's mixing, on 31 bits
            key = (key ^ (key >> shift)) * 0x45D9F3B & 0x7FFFFFFF
        key = key ^ (key >> 16)
    return key.float()


IMPORTANCES: dict[str, Importance] = {
    "scan": scan_importance,
    "norm": norm_importance,
    "random": random_importance,
}
