"""Scan orders as route tables: ``routes[k, t]`` is the token that route k visits at step t.

Tokens are counted row by row. A table is an int32 tensor (k, s); -1 is a padding step. An order is
a function ``(grid, device=None) -> routes``, registered by name with `register_scan`.
"""

from .drawing import draw
from .orders import bidirectional, cross_scan, inverse, raster, reversed_routes
from .registry import Scan, get_scan, list_scans, register_scan, scan_routes

__all__ = [
    "Scan",
    "bidirectional",
    "cross_scan",
    "draw",
    "get_scan",
    "inverse",
    "list_scans",
    "raster",
    "register_scan",
    "reversed_routes",
    "scan_routes",
]
