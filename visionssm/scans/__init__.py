"""Scan orders as route tables: ``routes[k, t]`` is the token that route k visits at step t.

Tokens are counted row by row. A table is an int32 tensor (k, s); -1 is a padding step. A strategy
is a function ``(grid, device=None) -> routes``, registered by name with `register_scan`. Points
have no grid: their routes, (b, k, s), come from coordinates, by `serialize_points`.
"""

from .curves import height_first, hilbert, hilbert_code, u_order, z_order, z_order_code
from .drawing import draw, gallery
from .orders import (
    bidirectional,
    bitemporal,
    both_ways,
    cross_scan,
    inverse,
    join_routes,
    multi_head,
    raster,
    reversed_routes,
    snake,
    spiral,
    transposed_routes,
    zigzag,
)
from .pointcloud import POINT_ORDERS, serialize_points, voxel_orders
from .registry import Scan, get_scan, list_scans, register_scan, scan_routes
from .windows import atrous, atrous_rows, atrous_window, local, strided, window

__all__ = [
    "POINT_ORDERS",
    "Scan",
    "atrous",
    "atrous_rows",
    "atrous_window",
    "bidirectional",
    "bitemporal",
    "both_ways",
    "cross_scan",
    "draw",
    "gallery",
    "get_scan",
    "height_first",
    "hilbert",
    "hilbert_code",
    "inverse",
    "join_routes",
    "list_scans",
    "local",
    "multi_head",
    "raster",
    "register_scan",
    "reversed_routes",
    "scan_routes",
    "serialize_points",
    "snake",
    "spiral",
    "strided",
    "transposed_routes",
    "u_order",
    "voxel_orders",
    "window",
    "z_order",
    "z_order_code",
    "zigzag",
]
