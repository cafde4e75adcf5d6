"""Models from what the official repositories publish: constructor arguments and state dicts."""

from __future__ import annotations

import argparse
import contextlib
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

CHECKPOINT_ENTRIES = ("model", "model_ema", "state_dict")  # official evaluations read the first


class OfficialLayout(NamedTuple):
    """How an official checkpoint names the parameters of one of our models."""

    # our key -> official key, or the keys of tensors that ours joins along their first axis
    names: Mapping[str, str | tuple[str, ...]]
    aliases: tuple[tuple[str, str], ...] = ()  # pattern, replacement: older keys to official ones
    entries: tuple[str, ...] = CHECKPOINT_ENTRIES  # of a checkpoint; the first one found is taken


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
        family: "vim", "vmamba", ...
        kwargs: arguments of the official class, under its names; those left out take its defaults.
            Arguments of the official dense backbone (``out_indices``) give a module that returns
            the list of normalised maps (b, c, h, w).
        state_dict: tensors under the official names, alone or inside a checkpoint: of its entries
            ``model`` or, for "efficientvim", ``model_ema``. They are copied.

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


def unwrap(state_dict: Mapping[str, Any], entries: tuple[str, ...]) -> Mapping[str, Any]:
    """The first of these entries that a checkpoint has, or what is no checkpoint as it is.

    Raises:
        ValueError: a key is no name.
    """
    found = (state_dict[entry] for entry in entries if isinstance(state_dict.get(entry), Mapping))
    state_dict = next(found, state_dict)
    for key in state_dict:
        if not isinstance(key, str):
            raise ValueError(f"state_dict: expected names of tensors, got the key {key!r}")
    return state_dict


def convert_official(
    state_dict: Mapping[str, Any], model: nn.Module, layout: OfficialLayout
) -> dict[str, Any]:
    """Rename an official state dict to our keys; keys that are ours or unknown stay as they are.

    Weights of 1 x 1 convolutions become matrices where the model has a linear layer. Parts of a
    joined parameter stay apart, under their official names, unless all are there and fit.

    Raises:
        ValueError: a key is no name, or two tensors claim the same parameter.
    """
    state_dict = unwrap(state_dict, layout.entries)
    ours = {official: own for own, official in layout.names.items() if isinstance(official, str)}
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
    _join_parts(weights, parameters, layout)
    return weights


def _join_parts(
    weights: dict[str, Any], parameters: Mapping[str, Tensor], layout: OfficialLayout
) -> None:
    for own, parts in layout.names.items():
        if isinstance(parts, str):
            continue
        found, shape = [weights.get(part) for part in parts], _part_shape(parameters[own], parts)
        if any(not isinstance(value, Tensor) or tuple(value.shape) != shape for value in found):
            continue
        if own in weights:
            raise ValueError(f"state_dict: {own!r} and {', '.join(parts)} stand for the same")
        weights[own] = torch.cat([weights.pop(part) for part in parts])


def _part_shape(joined: Tensor, parts: tuple[str, ...]) -> tuple[int, ...]:
    return (joined.shape[0] // len(parts), *joined.shape[1:])


def _check_fit(model: nn.Module, weights: Mapping[str, Any], layout: OfficialLayout) -> None:
    expected: dict[str, tuple[int, ...]] = {}
    for own, parameter in model.state_dict().items():
        parts = layout.names.get(own, own)
        if isinstance(parts, str) or own in weights:
            expected[own] = tuple(parameter.shape)
        else:
            expected.update(dict.fromkeys(parts, _part_shape(parameter, parts)))
    problems = [f"missing {_name(key, layout)}" for key in expected if key not in weights]
    problems += [f"unexpected {_name(key, layout)}" for key in weights if key not in expected]
    for key in expected.keys() & weights.keys():
        shape, value = expected[key], weights[key]
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
    official = layout.names.get(key, key)
    return official if isinstance(official, str) else key


def official_arguments(
    model: str,
    kwargs: Mapping[str, Any],
    defaults: Mapping[str, Any],
    fixed: Mapping[str, Any],
    ignored: Collection[str] = (),
) -> dict[str, Any]:
    """All arguments of an official class, those left out at its defaults.

    Args:
        model: what to call the class in errors.
        kwargs: arguments given.
        defaults: of the arguments that have an effect here.
        fixed: arguments of which one value is supported, the one published weights use.
        ignored: arguments that the official code takes, and that leave the function alone.

    Raises:
        ValueError: an argument is unknown, or a fixed one has another value.
    """
    unknown = sorted(kwargs.keys() - {*defaults, *fixed, *ignored})
    if unknown:
        raise ValueError(f"kwargs: {model} has no option {', '.join(unknown)}")
    for option, value in fixed.items():
        if kwargs.get(option, value) != value:
            raise ValueError(
                f"{option}: expected {value!r}, no published weight uses another value; "
                f"got {kwargs[option]!r}"
            )
    return {**defaults, **kwargs}


def choose(argument: str, name: Any, choices: Mapping[Any, Any]) -> Any:
    """The choice of that name; ValueError naming the argument if there is none."""
    if name not in choices:
        raise ValueError(f"{argument}: expected one of {list(choices)}, got {name!r}")
    return choices[name]


@contextlib.contextmanager
def stored_configs_readable() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` read checkpoints that hold their run's configuration.

    Swin's training code, which many families build on, stores a yacs one beside the weights, read
    as a plain dict here; DeiT's stores the ``argparse.Namespace`` of its command line, an object
    without behaviour. No code of the file or of yacs runs.
    """
    configs: list[Any] = [(OrderedDict, "yacs.config.CfgNode"), argparse.Namespace]
    with torch.serialization.safe_globals(configs):
        yield


def read_checkpoint(path: Path, argument: str) -> Mapping[str, Any]:
    """The content of a .safetensors or PyTorch file, tensors and plain containers only.

    Raises:
        ValueError: there is no such file, it is damaged, it would run code to be read, or it holds
            no mapping; naming `argument`.
    """
    if not path.is_file():
        raise ValueError(f"{argument}: no file {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with stored_configs_readable():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError) as error:
        raise ValueError(
            f"{argument}: {str(path)!r} is damaged, or holds Python objects beside tensors; "
            "reading those would run code of the file. If you trust it, save the tensors alone, "
            f"such as torch.save(torch.load(path, weights_only=False)['model'], new_path). {error}"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{argument}: expected a state dict, got a {type(content).__name__}")
    return content
