"""`visionssm convert`: an official checkpoint becomes a safetensors file that timm loads."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor

from .._files import replacing
from ..analysis.flops import meta_model
from ..models import list_models
from ..models.official import read_checkpoint

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
    name, weights = recognise(read_checkpoint(args.source, "source"))
    print(f"{args.source}: {name}, {len(weights)} tensors")
    with replacing(target) as temporary:
        safetensors.torch.save_file(weights, temporary, {"format": "pt", "architecture": name})
        verify(name, temporary, weights)
    print(f"{target}: reloaded strictly, every tensor equal. Use it with")
    print(
        f"  timm.create_model({name!r}, pretrained=True, "
        f"pretrained_cfg_overlay=dict(file={str(target)!r}))"
    )
    return 0


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
    """Load the file through timm; RuntimeError if any tensor differs."""
    # By its content: timm tells the format of a file by its ending.
    overlay = {"state_dict": safetensors.torch.load_file(path)}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    differing = [k for k, v in model.state_dict().items() if not torch.equal(v, weights[k])]
    if differing:
        raise RuntimeError(f"{name} reloaded from {path} differs in {differing}")
