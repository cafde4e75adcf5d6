"""Models from what the official repositories publish: constructor arguments and state dicts."""

from __future__ import annotations

import contextlib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CHECKPOINT_ENTRIES = ("model", "model_ema", "state_dict")  # where training code nests the weights


class OfficialLayout(NamedTuple):
    """How an official checkpoint names the parameters of one of our models."""

    names: dict[str, str]  # our key -> official key
    aliases: tuple[tuple[str, str], ...] = ()  # pattern, replacement: older keys to official ones


OfficialBuilder = Callable[[dict[str, Any]], tuple[nn.Module, OfficialLayout]]
_builders: dict[str, OfficialBuilder] = {}


def register_official(family: str) -> Callable[[OfficialBuilder], OfficialBuilder]:
    """Register what turns a family's official constructor arguments into a model and its layout."""

    def register(builder: OfficialBuilder) -> OfficialBuilder:
        if family in _builders:
            raise ValueError(f"family: {family!r} is registered already")
        _builders[family] = builder
        return builder

    return register


def from_official(
    family: str, kwargs: Mapping[str, Any], state_dict: Mapping[str, Any]
) -> nn.Module:
    """Build a model from an official repository's constructor arguments and state dict.

    Args:
        family: "vmamba", ...
        kwargs: arguments of the official class, under its names; those left out take its defaults.
            Arguments of the official dense backbone (``out_indices``) give a module that returns
            the list of normalised maps (b, c, h, w).
        state_dict: tensors under the official names, alone or inside a checkpoint's ``model``
            entry. They are copied.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        ValueError: the family is unknown; an argument is unknown or not supported; or the tensors
            do not fit: every missing, unexpected and misshaped key is named.
    """
    if family not in _builders:
        raise ValueError(f"family: expected one of {sorted(_builders)}, got {family!r}")
    model, layout = _builders[family](dict(kwargs))
    weights = convert_official(state_dict, model, layout)
    _check_fit(model, weights, layout)
    model.load_state_dict(weights)
    return model.eval()


def convert_official(
    state_dict: Mapping[str, Any], model: nn.Module, layout: OfficialLayout
) -> dict[str, Any]:
    """Rename an official state dict to our keys; keys that are ours or unknown stay as they are.

    Weights of 1 x 1 convolutions become matrices where the model has a linear layer.

    Raises:
        ValueError: two tensors claim the same parameter.
    """
    for entry in CHECKPOINT_ENTRIES:
        if isinstance(state_dict.get(entry), Mapping):
            state_dict = state_dict[entry]
            break
    ours = {official: own for own, official in layout.names.items()}
    parameters = model.state_dict()
    weights: dict[str, Any] = {}
    for key, value in state_dict.items():
        official = key
        if key not in parameters:
            for pattern, replacement in layout.aliases:
                official = re.sub(pattern, replacement, official)
        own = ours.get(official, official)
        if own in weights:
            raise ValueError(f"state_dict: {key!r} and another key both stand for {own!r}")
        target = parameters.get(own)
        if isinstance(value, Tensor) and target is not None and target.dim() == 2:
            value = value.flatten(1) if value.shape[2:] == (1, 1) else value
        weights[own] = value
    return weights


def _check_fit(model: nn.Module, weights: Mapping[str, Any], layout: OfficialLayout) -> None:
    expected = model.state_dict()
    problems = [f"missing {_name(key, layout)}" for key in expected if key not in weights]
    problems += [f"unexpected {_name(key, layout)}" for key in weights if key not in expected]
    for key in expected.keys() & weights.keys():
        shape, value = tuple(expected[key].shape), weights[key]
        if not isinstance(value, Tensor):
            problems.append(f"{_name(key, layout)} is no tensor but {type(value).__name__}")
        elif tuple(value.shape) != shape:
            got = tuple(value.shape)
            problems.append(f"misshaped {_name(key, layout)}: expected {shape}, got {got}")
    if problems:
        raise ValueError(
            f"state_dict: {len(problems)} keys do not fit the arguments:\n  "
            + "\n  ".join(sorted(problems))
        )


def _name(key: str, layout: OfficialLayout) -> str:
    return layout.names.get(key, key)


def choose(argument: str, name: str, choices: Mapping[str, Any]) -> Any:
    """The choice of that name; ValueError naming the argument if there is none."""
    if name not in choices:
        raise ValueError(f"{argument}: expected one of {list(choices)}, got {name!r}")
    return choices[name]


@contextlib.contextmanager
def stored_configs_readable() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` read checkpoints that hold a yacs configuration.

    Swin's training code, which many families build on, stores one beside the weights. It is read as
    a plain dict: no code of the file or of yacs runs.
    """
    with torch.serialization.safe_globals([(OrderedDict, "yacs.config.CfgNode")]):
        yield
