"""Rows of tokens that several routes share: p of them, k / p consecutive routes each."""

from __future__ import annotations

from torch import Tensor


def by_route(x: Tensor, k: int) -> Tensor:
    """Shared rows (b, p, l, c) for each of the routes that share them: (b, k, l, c)."""
    p = x.shape[1]
    return x if p == k else x.unsqueeze(2).expand(-1, -1, k // p, -1, -1).flatten(1, 2)


def add_up_routes(x: Tensor, p: int) -> Tensor:
    """The opposite: rows of every route (b, k, l, c) to sums (b, p, l, c)."""
    return x if x.shape[1] == p else x.unflatten(1, (p, -1)).sum(2)
