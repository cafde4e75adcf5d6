"""`visionssm scans`: pictures of the paths that scans take over an image."""

from __future__ import annotations

import argparse
from typing import Any

from ..scans import draw, gallery, get_scan, list_scans

GRID_HELP = "height x width in tokens, as 14x14"


def add_parser(subparsers: Any) -> None:
    """Declare `visionssm scans draw` and `visionssm scans gallery`."""
    parser = subparsers.add_parser("scans", help="pictures of scan orders")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    one = actions.add_parser("draw", help="a PNG of the routes of a scan over a grid")
    one.add_argument(
        "scan", help=f"one of {', '.join(list_scans())}; with options as 'atrous(step=3)'"
    )
    one.add_argument("grid", help=GRID_HELP)
    one.add_argument("file", help="PNG to write")
    every = actions.add_parser("gallery", help="a PNG of all scans")
    every.add_argument("file", help="PNG to write")
    every.add_argument("--grid", default="14x14", help=f"{GRID_HELP}; default 14x14")


def run(args: argparse.Namespace) -> int:
    """Draw; ValueError for an unknown scan or an impossible grid."""
    grid = parse_grid(args.grid)
    if args.action == "draw":
        print(draw(get_scan(args.scan).function(grid), grid, args.file))
    else:
        print(gallery(args.file, grid))
    return 0


def parse_grid(text: str) -> tuple[int, int]:
    """`14x14` to (14, 14); ValueError for anything else."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ValueError(f"grid: expected height x width as 14x14, got {text!r}")
    return int(height), int(width)
