"""Sizes that layers with a selective scan are built with, checked where they are given."""

from __future__ import annotations

import math

from visionssm.ops.selective_scan.checks import MAX_STATE_SIZE


def check_state_size(d_state: int) -> int:
    """Return the state size; ValueError unless the scan has kernels for it."""
    if not 1 <= d_state <= MAX_STATE_SIZE:
        raise ValueError(f"d_state: expected 1 to {MAX_STATE_SIZE}, got {d_state}")
    return d_state


def step_size_rank(dt_rank: int | str, channels: int) -> int:
    """Rank of the step-size projection: as given, or for "auto" ceil(channels / 16)."""
    if dt_rank == "auto":
        return math.ceil(channels / 16)
    if not isinstance(dt_rank, int) or dt_rank < 1:
        raise ValueError(f"dt_rank: expected 'auto' or a positive integer, got {dt_rank!r}")
    return dt_rank
