"""`visionssm draw SCAN FILE`: a picture of the path that a scan takes over the image."""

from __future__ import annotations

import argparse
from typing import Any

from ..scans import draw, get_scan, list_scans


def add_parser(subparsers: Any) -> None:
    """Declare `visionssm draw`."""
    parser = subparsers.add_parser("draw", help="a PNG of the routes of a scan over a grid")
    parser.add_argument("scan", help=f"one of {', '.join(list_scans())}")
    parser.add_argument("file", help="PNG to write")
    parser.add_argument(
        "--grid", nargs=2, type=int, default=(8, 8), metavar=("H", "W"), help="default 8 8"
    )


def run(args: argparse.Namespace) -> int:
    """Draw; ValueError for an unknown scan or an impossible grid."""
    grid = tuple(args.grid)
    print(draw(get_scan(args.scan).function(grid), grid, args.file))
    return 0
