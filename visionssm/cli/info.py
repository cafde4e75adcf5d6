"""`visionssm info MODEL`: all that is known about one model."""

from __future__ import annotations

import argparse
import difflib
from typing import Any

import timm

from ..analysis.flops import count_flops, count_parameters, meta_model
from ..analysis.published import pretrained_cfg, published_accuracy
from ..models import list_models


def add_parser(subparsers: Any) -> None:
    """Declare `visionssm info`."""
    parser = subparsers.add_parser(
        "info", help="parameters, FLOPs, preprocessing, weights and licence of one model"
    )
    parser.add_argument("model", help="a name from `visionssm list`, or name.tag of other weights")
    parser.add_argument(
        "--input-size",
        nargs=3,
        type=int,
        metavar=("C", "H", "W"),
        help="count FLOPs at this size (default: that of the published weights)",
    )


def run(args: argparse.Namespace) -> int:
    """Print a line a fact; ValueError if there is no such model or no such size."""
    names = list_models()
    names += [name for name in timm.list_pretrained() if name.partition(".")[0] in names]
    if args.model not in names:
        close = difflib.get_close_matches(args.model, names, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"no model {args.model!r}{hint}")
    if args.input_size and min(args.input_size) < 1:
        raise ValueError(f"--input-size: expected positive numbers, got {args.input_size}")
    for fact, value in facts(args.model, args.input_size).items():
        print(f"{fact:<12}{value}")
    return 0


def facts(name: str, input_size: list[int] | None = None) -> dict[str, str]:
    """What there is to say about a registered model, as text.

    Args:
        name: as in `visionssm.list_models()`, or of one of the weights in
            `timm.list_pretrained()`.
        input_size: channels, height, width; None for the size of the published weights.

    Raises:
        ValueError: the model cannot read images of that size.
    """
    cfg = pretrained_cfg(name)
    channels, height, width = input_size or cfg.input_size
    model: Any = meta_model(name, channels)
    if hasattr(model, "set_input_size"):  # it is built for one size
        model.set_input_size((height, width))
    parameters = count_parameters(model)
    flops = count_flops(model, (channels, height, width))
    accuracy = published_accuracy(name)
    return {
        "model": name,
        "parameters": f"{parameters / 1e6:.2f} M ({parameters:,})",
        "FLOPs": f"{flops / 1e9:.2f} G for one {channels} x {height} x {width} image, "
        "a multiply-add counted as 2",
        "top-1": f"{accuracy[0]:.1f} % on ImageNet-1K, published: {accuracy[1]}"
        if accuracy
        else "nothing published",
        "input": f"{' x '.join(map(str, cfg.input_size))}, {cfg.interpolation}, "
        f"crop {cfg.crop_pct}",
        "mean, std": f"{cfg.mean}, {cfg.std}",
        "weights": str(cfg.url or "none"),
        "licence": cfg.license or "not stated",
        "paper": f"{cfg.paper_name}, {cfg.paper_ids}",
        "code": cfg.origin_url or "not stated",
    }
