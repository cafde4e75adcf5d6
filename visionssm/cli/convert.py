"""`visionssm convert`: an official checkpoint becomes a safetensors file that timm loads."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor

from ..analysis.flops import meta_model
from ..models import list_models
from ..models.official import stored_configs_readable

SHOWN_PROBLEMS = 8


def add_parser(subparsers: Any) -> None:
    """Declare `visionssm convert`."""
    parser = subparsers.add_parser(
        "convert", help="official checkpoint to safetensors, recognised by its keys and verified"
    )
    parser.add_argument("source", type=Path, help="official .pth file")
    parser.add_argument("target", type=Path, help=".safetensors file to write")


def run(args: argparse.Namespace) -> int:
    """Convert, verify by reloading, and only then put the file in its place.

    Raises:
        ValueError: the source cannot be read, is no model of ours, or the target's name is wrong.
    """
    target: Path = args.target
    if target.suffix != ".safetensors":
        raise ValueError(f"target: expected a name ending in .safetensors, got {str(target)!r}")
    name, weights = recognise(read_official(args.source))
    print(f"{args.source}: {name}, {len(weights)} tensors")
    # timm tells the format by the ending.
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.safetensors")
    try:
        safetensors.torch.save_file(weights, temporary, {"format": "pt", "architecture": name})
        verify(name, temporary, weights)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"{target}: reloaded strictly, every tensor equal. Use it with")
    print(
        f"  timm.create_model({name!r}, pretrained=True, "
        f"pretrained_cfg_overlay=dict(file={str(target)!r}))"
    )
    return 0


def read_official(path: Path) -> Mapping[str, Any]:
    """The content of a checkpoint file, reading tensors and plain containers only.

    Raises:
        ValueError: there is no such file, it is damaged, or it would run code to be read.
    """
    if not path.is_file():
        raise ValueError(f"source: no file {str(path)!r}")
    try:
        with stored_configs_readable():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"source: {str(path)!r} is damaged, or holds Python objects beside tensors; reading "
            "those would run code of the file. If you trust it, save the tensors alone: "
            f"torch.save(torch.load(path, weights_only=False)['model'], new_path). {error}"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"source: {str(path)!r} is damaged or incomplete: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"source: expected a state dict, got a {type(content).__name__}")
    return content


def recognise(state_dict: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """The registered model whose every key and shape fits, and the weights under our keys.

    Raises:
        ValueError: none fits; the closest model and what does not fit in it are named.
    """
    misfits: dict[str, list[str]] = {}
    for name in list_models():
        model = meta_model(name)
        filter_fn = sys.modules[timm.model_entrypoint(name).__module__].checkpoint_filter_fn
        weights = filter_fn(state_dict, model)
        misfits[name] = _misfits(model.state_dict(), weights)
        if not misfits[name]:
            return name, {key: value.contiguous() for key, value in weights.items()}
    closest = min(misfits, key=lambda name: len(misfits[name]))
    problems = misfits[closest]
    more = len(problems) - SHOWN_PROBLEMS
    raise ValueError(
        f"source: fits none of our models. Closest is {closest}, where {len(problems)} keys do not "
        "fit:\n  "
        + "\n  ".join(problems[:SHOWN_PROBLEMS])
        + (f"\n  and {more} more" if more > 0 else "")
    )


def _misfits(expected: Mapping[str, Tensor], got: Mapping[str, Any]) -> list[str]:
    problems = [f"missing {key}" for key in expected if key not in got]
    problems += [f"unexpected {key}" for key in got if key not in expected]
    for key in expected.keys() & got.keys():
        shape, found = tuple(expected[key].shape), tuple(getattr(got[key], "shape", ()))
        if shape != found:
            problems.append(f"{key}: expected {shape}, got {found}")
    return sorted(problems)


def verify(name: str, path: Path, weights: Mapping[str, Tensor]) -> None:
    """Load the file as a user would; RuntimeError if any tensor differs."""
    overlay = {"file": str(path)}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    differing = [k for k, v in model.state_dict().items() if not torch.equal(v, weights[k])]
    if differing:
        raise RuntimeError(f"{name} reloaded from {path} differs in {differing}")
