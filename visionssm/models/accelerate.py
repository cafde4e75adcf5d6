"""Faster mixers for models that exist: the same parameters, the same numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from timm.models import efficientvim
from torch import nn

from visionssm.layers import HSMSSD

# Each is a subclass of what it stands in for, and differs from it in `forward` alone.
FASTER: dict[type[nn.Module], Any] = {efficientvim.HSMSSD: HSMSSD}


@dataclass(frozen=True)
class Acceleration:
    """What `accelerate` changed: names of modules, and the class that each of them now has."""

    swapped: dict[str, type[nn.Module]]

    def __str__(self) -> str:
        lines = [
            f"  {name}: {cls.__bases__[0].__module__}.{cls.__bases__[0].__name__} -> "
            f"{cls.__module__}.{cls.__name__}"
            for name, cls in self.swapped.items()
        ]
        return "\n".join([f"{len(lines)} modules swapped", *lines])

    __repr__ = __str__


def accelerate(model: nn.Module) -> Acceleration:
    """Swap the mixers that we have a faster form of, in place, anywhere in a model.

    Known are timm's HSM-SSD mixers (EfficientViM) of up to 256 states. They stay the same objects
    with the same parameters, hooks and state-dict keys; only their arithmetic is ours, which does
    not call the projections inside them, nor hooks on those. Outputs and gradients agree within
    float32 rounding: in float32 within 1e-5 of the largest value of an output.

    Args:
        model: any module, on any device; a mixer is recognised by its exact class, so that a
            subclass with a forward of its own is left alone.

    Returns:
        What was swapped; its text has a line a module.

    Raises:
        ValueError: there is nothing to swap.
    """
    swapped = {}
    for name, module in model.named_modules():
        faster = FASTER.get(type(module))
        if faster is not None and faster.supports(module):
            module.__class__ = faster
            swapped[name] = faster
    if not swapped:
        known = ", ".join(f"{cls.__module__}.{cls.__name__}" for cls in FASTER)
        raise ValueError(
            f"model: {type(model).__name__} holds no mixer that can be swapped, expected one of "
            f"{known}"
        )
    return Acceleration(swapped)
