"""`visionssm list`: the models of this package."""

from __future__ import annotations

import argparse
from typing import Any

from ..analysis.flops import count_parameters, meta_model
from ..analysis.published import pretrained_cfg, published_accuracy
from ..models import list_models


def add_parser(subparsers: Any) -> None:
    """Declare `visionssm list`."""
    parser = subparsers.add_parser(
        "list", help="our models with parameters, input size and published top-1"
    )
    parser.add_argument("filter", nargs="?", default="", help="wildcard, such as '*tiny*'")


def run(args: argparse.Namespace) -> int:
    """Print a line a model; ValueError if none matches."""
    names = list_models(args.filter)
    if not names:
        raise ValueError(f"no model matches {args.filter!r}")
    print(f"{'model':<24}{'parameters':>12}  {'input':<14}published top-1")
    for name in names:
        parameters = count_parameters(meta_model(name))
        size = "x".join(map(str, pretrained_cfg(name).input_size))
        accuracy = published_accuracy(name)
        top1 = f"{accuracy[0]:.1f} %" if accuracy else "-"
        print(f"{name:<24}{parameters / 1e6:>10.2f} M  {size:<14}{top1}")
    return 0
