"""How a model is pruned: its class gives way to a pruned form of it, and comes back.

A pruned form is a subclass of the model's class, registered with `register_pruned_form`, that
differs in what `forward` computes, and in nothing that is stored: parameters, state-dict keys,
hooks and the object itself stay. It reads the `Pruning` from ``self.pruning`` and has the methods
of `PrunedForm`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from .importance import IMPORTANCES, BlockOutput, Importance
from .schedule import Keep, Schedule, resolve_schedule

MODES = ("align", "hard", "merge")
TIMES = ("carried", "gap_power")

# Why a family of this package has no pruned form, by the name of its class.
UNPRUNABLE = {
    "SpatialMamba": "its state fusion mixes neighbours on the grid, so each token is one of theirs",
    "VSSD": "its scan sums over all tokens without an order, and its convolutions need the grid",
    "EfficientViM": "its mixer already works on a few hidden states instead of tokens",
    "EfficientVMamba": "its scans skip tokens already, each route of its own subset of the grid",
}

Form = type[nn.Module]
_forms: dict[Form, Form] = {}


@dataclass(frozen=True)
class Pruning:
    """How a model is pruned, as `prune` resolved it.

    Args:
        schedule: which share of the patches stays, after which blocks.
        importance: name of the importance, or the function itself.
        mode: "align", "hard" or "merge".
        time: "carried" or "gap_power".
        seed: of the importance "random".
    """

    schedule: Schedule
    importance: str | Importance
    mode: str
    time: str
    seed: int

    @property
    def clock(self) -> str | None:
        """`time`, or None where no time passes for removed tokens."""
        return None if self.mode == "hard" else self.time

    def apply(self, model: Any) -> Any:
        """Prune a model this way, as `prune` does, and return it."""
        return prune(
            model, self.schedule, self.importance, self.mode, time=self.time, seed=self.seed
        )

    def score(self, output: BlockOutput) -> Tensor:
        """Importance (b, l) of a block's tokens, without gradients.

        Raises:
            ValueError: the importance function gave another shape.
        """
        function = self.importance
        if isinstance(function, str):
            function = IMPORTANCES[function]
        scores = function(output).detach()
        if scores.shape != output.positions.shape:
            expected, got = tuple(output.positions.shape), tuple(scores.shape)
            raise ValueError(f"importance: expected scores {expected}, got {got}")
        return scores

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it, and as the arguments of `prune` that make the same again.

        Raises:
            ValueError: the importance is a function, which has no name to be stored by.
        """
        if not isinstance(self.importance, str):
            raise ValueError(
                f"importance: expected one of {list(IMPORTANCES)} to be stored, got a function"
            )
        return {
            "keep": self.schedule.to_dict(),
            "importance": self.importance,
            "mode": self.mode,
            "time": self.time,
            "seed": self.seed,
        }

    def __str__(self) -> str:
        rates = ", ".join(f"{rate:g} after {block}" for block, rate in self.schedule.keep.items())
        clock = "" if self.clock is None else f", time {self.clock}"
        return f"keep {rates or 'all'} (blocks from 0), by {self.importance}, {self.mode}{clock}"


class KeptPatches(NamedTuple):
    """What a block leaves of the patches."""

    block: int  # counted from 0
    grid: tuple[int, int]  # rows and columns of the patches there
    patches: Tensor  # (b, n) row by row


class PrunedForm(Protocol):
    """What a pruned form has beside its model's own methods."""

    pruning: Pruning

    def prunable_blocks(self) -> tuple[Sequence[int], Sequence[int]]:
        """Blocks, from 0, after which tokens may go; and after which they go at one single rate."""

    def check_pruning(self, pruning: Pruning) -> None:
        """Raise ValueError, naming the argument, where the model cannot be pruned that way."""

    def switch_parts(self, pruned: bool) -> None:
        """Give submodules their pruned form as ``self.pruning`` says, or their own one back."""

    def kept_patches(self, x: Tensor) -> list[KeptPatches]:
        """Which patches of images (b, c, h, w) stay after each block that removes some."""


def register_pruned_form(model_class: Form) -> Callable[[Form], Form]:
    """Register the decorated class as the pruned form of a model class, which it is a subclass of.

    Raises:
        ValueError: the class has a pruned form already, or the form is no subclass of it.
    """

    def register(form: Form) -> Form:
        if model_class in _forms:
            raise ValueError(f"model_class: {model_class.__name__} has a pruned form already")
        if not issubclass(form, model_class):
            raise ValueError(f"model_class: expected a base of {form.__name__}, got {model_class}")
        _forms[model_class] = form
        return form

    return register


def prune(
    model: Any,
    keep: Keep = 0.7,
    importance: str | Importance = "scan",
    mode: str = "align",
    *,
    time: str = "gap_power",
    seed: int = 0,
) -> Any:
    """Let a model drop its least important tokens between blocks, at once and without retraining.

    The model is changed in place and returned: it is called, compiled, exported, trained and saved
    as before, and its parameters keep their names. ``model.pruning`` says how it is pruned;
    `unprune` restores it. Pruning it again replaces the former way. Compile after pruning.

    Vim: tokens leave the network. The class token always stays, in its place among the patches;
    where maps are read (`forward_intermediates`), removed patches are back at theirs with the
    features they had last. VMamba: the grid stays, and the scans of the rest of a stage skip the
    tokens removed in it, which saves the scan's part of the FLOPs alone.

    Args:
        model: a `Vim` or `VMamba`, or another model whose class has a registered pruned form.
        keep: the rate of patches that stay at each of a few blocks (Vim: after a quarter, a half
            and three quarters of them; VMamba: after the first of each stage); or a mapping from
            blocks, counted from 0, to rates; one rate for every block; a name of
            `PUBLISHED_SCHEDULES`; or a `Schedule`.
        importance: "scan", the positive part of the mixer's own output; "norm", of the features;
            "random"; or a function from `BlockOutput` to scores (b, l).
        mode: "align" lets time pass where tokens were removed; "hard" does not, as if they had
            never been; "merge" does, and averages them into the most similar of the kept ones.
        time: how long a removed token takes in the blocks after it: "gap_power", as long as the
            next kept token, so that with g positions between them its decay is exp(g dt A); or
            "carried", as long as it took in the block that removed it.
        seed: of the importance "random".

    Returns:
        The model.

    Raises:
        ValueError: an argument is out of its range; or the model cannot be pruned, saying why.

    Source: Exploring Token Pruning in Vision State Space Models, arXiv 2409.18962 (scan importance
    and alignment); Rethinking Token Reduction for State Space Models, arXiv 2410.14725 (merging by
    importance and similarity).
    """
    for name, value, known in (("mode", mode, MODES), ("time", time, TIMES)):
        if value not in known:
            raise ValueError(f"{name}: expected one of {known}, got {value!r}")
    if not callable(importance) and importance not in IMPORTANCES:
        raise ValueError(
            f"importance: expected one of {list(IMPORTANCES)} or a function, got {importance!r}"
        )
    form = _form_of(model)
    schedule = resolve_schedule(keep, *form.prunable_blocks(model))
    pruning = Pruning(schedule, importance, mode, time, seed)
    form.check_pruning(model, pruning)
    unprune(model)
    model.__class__ = form
    model.pruning = pruning
    model.switch_parts(True)
    return model


def unprune(model: Any) -> Any:
    """Undo `prune`, in place; a model that is not pruned stays as it is. Returns the model."""
    pruned_class: Form = type(model)
    for original, form in _forms.items():
        if form is pruned_class:
            model.switch_parts(False)
            model.__class__ = original
            del model.pruning
    return model


def _form_of(model: Any) -> Any:
    for original, form in _forms.items():
        if type(model) in (original, form):
            return form
    reason = next(
        (UNPRUNABLE[c.__name__] for c in type(model).__mro__ if c.__name__ in UNPRUNABLE), ""
    )
    known = ", ".join(original.__name__ for original in _forms)
    raise ValueError(
        f"model: {type(model).__name__} cannot be pruned"
        + (f": {reason}" if reason else "")
        + f"; expected one of {known}, or a class that register_pruned_form knows"
    )
