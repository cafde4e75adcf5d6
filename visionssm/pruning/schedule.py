"""Schedules: after which blocks tokens are removed, and what share of the patches stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

ROUNDINGS = ("ceil", "odd")
MAX_DENOMINATOR = 10**9  # of a rate


@dataclass(frozen=True)
class Schedule:
    """Share of the patches that stays after each block that removes some.

    Args:
        keep: block, counted from 0, to the rate in (0, 1] of the patches it read that stay.
        rounding: "ceil" keeps ceil(rate m) of m patches. "odd" is the released ToP-ViM code's rule:
            ceil(rate m) tokens with the class token among them, one more if that is even.

    Raises:
        ValueError: a rate or the rounding is another.
    """

    keep: Mapping[int, float]
    rounding: str = "ceil"
    _shares: dict[int, tuple[int, int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        for block, rate in self.keep.items():
            if not isinstance(block, int) or block < 0:
                raise ValueError(f"keep: expected blocks counted from 0, got {block!r}")
            if not isinstance(rate, int | float) or not 0 < rate <= 1:
                raise ValueError(f"keep: expected rates in (0, 1], got {rate!r} for block {block}")
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"rounding: expected one of {ROUNDINGS}, got {self.rounding!r}")
        removing = {block: float(rate) for block, rate in self.keep.items() if rate < 1}
        object.__setattr__(self, "keep", dict(sorted(removing.items())))
        # As integers, for torch.compile takes a float that another model has differently for an
        # unknown; and 0.55 of 100, as floats, is a little more than 55.
        shares = {
            block: Fraction(rate).limit_denominator(MAX_DENOMINATOR).as_integer_ratio()
            for block, rate in self.keep.items()
        }
        object.__setattr__(self, "_shares", shares)

    def num_kept(self, block: int, num_patches: int) -> int:
        """How many of the patches that a block reads stay after it, at least one."""
        if block not in self._shares:
            return num_patches
        numerator, denominator = self._shares[block]
        kept = -(-numerator * num_patches // denominator)
        if self.rounding == "odd":
            kept = kept // 2 * 2
        return max(1, kept)

    def num_patches(self, num_patches: int, num_blocks: int) -> list[int]:
        """How many patches each block reads."""
        counts = []
        for block in range(num_blocks):
            counts.append(num_patches)
            num_patches = self.num_kept(block, num_patches)
        return counts

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; `from_dict` undoes it."""
        return {"keep": {str(k): v for k, v in self.keep.items()}, "rounding": self.rounding}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Schedule:
        """The schedule of `to_dict`."""
        return cls({int(k): v for k, v in values["keep"].items()}, values["rounding"])


def _top_vim(layers: tuple[int, ...], rate: float) -> Schedule:
    return Schedule({layer - 1: rate for layer in layers}, "odd")


# Of https://github.com/ZLKong/ToP-ViM: the released constants, then what its comments and the names
# of its log files say. Layers are counted from 1 in the names, as there.
PUBLISHED_SCHEDULES = {
    "top_vim_5_10_15_keep80": _top_vim((5, 10, 15), 0.8),
    "top_vim_10_20_keep75": _top_vim((10, 20), 0.75),
    "top_vim_5_14_keep70": _top_vim((5, 14), 0.7),
    "top_vim_5_14_23_keep70": _top_vim((5, 14, 23), 0.7),
    "top_vim_5_9_13_17_keep80": _top_vim((5, 9, 13, 17), 0.8),
    "top_vim_5_10_15_keep65": _top_vim((5, 10, 15), 0.65),
}

# A mapping is from blocks to rates, or what `Schedule.to_dict` gives.
Keep = float | str | Mapping[Any, Any] | list[float] | tuple[float, ...] | Schedule


def resolve_schedule(keep: Keep, blocks: Sequence[int], default: Sequence[int]) -> Schedule:
    """What a user may pass as `keep`, as a schedule.

    Args:
        keep: a rate for each of the `default` blocks; a name of `PUBLISHED_SCHEDULES`; a mapping
            from blocks to rates; one rate for every block; or a schedule, as such or its `to_dict`.
        blocks: the blocks after which tokens may be removed, counted from 0.
        default: those after which a single rate removes them.

    Raises:
        ValueError: keep is none of them, or names a block that is not among `blocks`.
    """
    if isinstance(keep, str):
        if keep not in PUBLISHED_SCHEDULES:
            raise ValueError(f"keep: expected one of {list(PUBLISHED_SCHEDULES)}, got {keep!r}")
        schedule = PUBLISHED_SCHEDULES[keep]
    elif isinstance(keep, Schedule):
        schedule = keep
    elif isinstance(keep, Mapping):
        schedule = Schedule.from_dict(keep) if "rounding" in keep else Schedule(keep)
    elif isinstance(keep, list | tuple):
        schedule = Schedule(dict(enumerate(keep)))
    elif isinstance(keep, int | float):
        schedule = Schedule(dict.fromkeys(default, keep))
    else:
        raise ValueError(f"keep: expected a rate, rates of blocks or a name, got {keep!r}")
    impossible = schedule.keep.keys() - set(blocks)
    if impossible:
        raise ValueError(
            f"keep: tokens can be removed after the blocks {_listed(blocks)} of this model, got "
            f"{sorted(impossible)}"
        )
    return schedule


def _listed(blocks: Sequence[int]) -> str:
    consecutive = list(blocks) == list(range(blocks[0], blocks[-1] + 1)) if blocks else False
    return f"{blocks[0]} to {blocks[-1]}" if consecutive else str(list(blocks))
