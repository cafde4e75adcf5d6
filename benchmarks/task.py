"""One thing to check and then to time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

EPS32 = torch.finfo(torch.float32).eps
# A sum of 4096 float32 products, rounded at each step, errs like a random walk of 4096 steps.
SUM_ERROR = 64 * EPS32


class Error(NamedTuple):
    """Deviation of a result from the truth, and the most that its dtype explains."""

    value: float
    limit: float

    @property
    def acceptable(self) -> bool:
        """False for NaN too."""
        return self.value <= self.limit


class Work(NamedTuple):
    """What the task cannot do without; None where that is not what bounds it."""

    bytes: float | None = None  # inputs read once, outputs written once
    exponentials: float | None = None
    flops: float | None = None  # of matrix products, convolutions and scans; multiply-add is 2


@dataclass(frozen=True)
class Task:
    """A quantity of a case, as computed by a contender. Nothing is allocated until it is asked for.

    Attributes:
        prepare: returns the call to be timed. It runs on the stream that the call will run on.
        errors: runs the call once and compares each of its results with the truth.
        images: per call, where throughput counts; the goal is then images/s, and ms otherwise.
        as_fast_as: a model whose images/s in the same run is the goal.
        relative_to: a contender in the same case, and run, by whose time the task's is divided; the
            goal is then the most that the quotient may be.
        graph: also time the call as a CUDA graph, without the host.
        missing: what would have to be there to run it; empty if all is.
    """

    case: str
    contender: str
    mode: str
    quantity: str
    dtype: torch.dtype
    prepare: Callable[[], Callable[[], Any]]
    errors: Callable[[], dict[str, Error]]
    work: Callable[[], Work]
    goal: float | None = None
    images: int | None = None
    as_fast_as: str | None = None
    relative_to: str | None = None
    graph: bool = False
    missing: str = ""

    @property
    def label(self) -> str:
        return " | ".join((self.case, self.contender, self.mode, self.quantity))


def max_error(got: Tensor, truth: Tensor) -> float:
    """Largest deviation over the largest value of the truth."""
    return float((got - truth).abs().max() / truth.abs().max())


def norm_error(got: Iterable[Tensor], truth: Iterable[Tensor]) -> float:
    """Euclidean norm of the deviation over that of the truth, all tensors taken as one vector."""
    pairs = [(t.square().sum(), (g - t).square().sum()) for g, t in zip(got, truth, strict=True)]
    norm, deviation = (float(torch.stack(column).sum()) for column in zip(*pairs, strict=True))
    return math.sqrt(deviation / norm)


def network_limit(parameters: Iterable[Tensor], dtype: torch.dtype, passes: int) -> float:
    """Bound of `norm_error` for a network computed in `dtype`.

    Each matrix rounds its output once, relative to its size, and sums in float32; errors of
    independent roundings grow with the square root of their number.

    Args:
        parameters: of the network; those of two dimensions and more are its matrices.
        dtype: of its matrix products.
        passes: 1 for outputs, 2 for gradients, which go through the network and back.
    """
    matrices = sum(parameter.dim() >= 2 for parameter in parameters)
    return math.sqrt(passes * matrices) * (torch.finfo(dtype).eps + SUM_ERROR)


def count_flops(call: Callable[[], Any]) -> int:
    """FLOPs of one call: matrix products, convolutions and scans, a multiply-add counted as two."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
