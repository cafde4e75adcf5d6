"""Weights of a file or URL into a backbone, with an account of what went where."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import timm
import torch
from mmengine.dist import barrier, get_local_rank
from mmengine.logging import print_log
from timm.models._hub import download_cached_file, get_cache_dir

from ..models.official import read_checkpoint

if TYPE_CHECKING:
    from .backbone import SSMBackbone

URL = ("http://", "https://")
SHOWN_PROBLEMS = 8
PARTS = ("backbone.", "network.")  # of a detector or segmentor; of our classifiers in training


class LoadReport(NamedTuple):
    """Keys of the backbone that the checkpoint filled and left new, and what it has besides."""

    matched: list[str]
    new: list[str]
    unused: list[str]


def load_pretrained(backbone: SSMBackbone, checkpoint: str) -> LoadReport:
    """Fill a backbone from a checkpoint, all of it but output norms that the file lacks.

    Args:
        backbone: is changed only if everything fits.
        checkpoint: path or URL of a safetensors or torch file; see `SSMBackbone`.

    Raises:
        ValueError: the file cannot be read safely, or lacks a tensor of the backbone, or has one
            of another shape or for a part that this backbone's model does not have.
    """
    weights = _convert(backbone, _backbone_part(_read(checkpoint)))
    own = backbone.state_dict()
    known = {f"model.{key}" for key in _complete_model(backbone).state_dict()} | own.keys()
    problems = [
        f"missing {key}" for key in own if key not in weights and not key.startswith("outnorm")
    ]
    problems += [f"unexpected {key}" for key in weights.keys() - known]
    for key in own.keys() & weights.keys():
        expected, got = tuple(own[key].shape), tuple(getattr(weights[key], "shape", ()))
        if expected != got:
            problems.append(f"misshaped {key}: expected {expected}, got {got}")
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        raise ValueError(
            f"checkpoint: {checkpoint!r} is not one of {backbone.arch}, {len(problems)} keys do "
            "not fit:\n  "
            + "\n  ".join(sorted(problems)[:SHOWN_PROBLEMS])
            + (f"\n  and {more} more" if more > 0 else "")
        )
    matched = {key: value for key, value in weights.items() if key in own}
    backbone.load_state_dict(matched, strict=False)
    report = LoadReport(
        list(matched),
        [key for key in own if key not in matched],
        [key for key in weights if key not in own],
    )
    print_log(
        f"{backbone.arch}: loaded {len(report.matched)} of {len(own)} tensors from {checkpoint}; "
        f"new: {', '.join(report.new) or 'none'}; "
        f"not used: {', '.join(report.unused) or 'none'}",
        logger="current",
    )
    return report


def _complete_model(backbone: SSMBackbone) -> Any:
    """The classifier that the backbone is a part of, without values."""
    with torch.device("meta"):
        return timm.create_model(backbone.arch, **backbone.arch_options)


def _convert(backbone: SSMBackbone, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Official weights, or ours, under the names of the backbone."""
    family = sys.modules[timm.model_entrypoint(backbone.arch).__module__]
    found: dict[str, Any] = family.checkpoint_filter_fn(weights, _complete_model(backbone))
    return {
        key if key.startswith("outnorm") else f"model.{key}": value for key, value in found.items()
    }


def _backbone_part(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of the weights of a larger model those of its backbone; else the checkpoint as it is."""
    weights = checkpoint.get("state_dict", checkpoint)
    for prefix in PARTS:
        if any(key.startswith(prefix) for key in weights):
            checkpoint = weights = {
                key.removeprefix(prefix): value
                for key, value in weights.items()
                if key.startswith(prefix)
            }
    if any(key.startswith("model.") for key in weights):
        return {key.removeprefix("model."): value for key, value in weights.items()}
    return checkpoint


def _read(checkpoint: str) -> Mapping[str, Any]:
    path = _download(checkpoint) if checkpoint.startswith(URL) else checkpoint
    return read_checkpoint(Path(path), "checkpoint")


def _download(url: str) -> str:
    """The local copy, made by one process of each machine.

    Each URL has a folder of its own, since a cached file is called after its URL's last part,
    which is the same for every file of some hosts.
    """
    folder = get_cache_dir(hashlib.sha256(url.encode()).hexdigest()[:16])
    try:
        if get_local_rank() == 0:
            download_cached_file(url, check_hash=False, cache_dir=folder)
    finally:
        barrier()
    return download_cached_file(url, check_hash=False, cache_dir=folder)
