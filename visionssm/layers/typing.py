"""Types of arguments that choose a layer."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

Layer = Callable[..., nn.Module]  # a module class, or a partial of one
LayerOrName = Layer | str  # or a name that timm knows
