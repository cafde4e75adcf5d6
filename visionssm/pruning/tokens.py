"""Sets of kept tokens: selecting, gathering, merging, and the time that removed tokens took.

The letters are those of the scan: b images, k routes, l tokens, n kept tokens, d channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm.layers.precision import at_least_float32


def select(scores: Tensor, num_kept: int, protected: Tensor | None) -> tuple[Tensor, Tensor]:
    """The tokens of the highest scores, and the others.

    Args:
        scores: (b, l); NaN is the lowest.
        num_kept: how many to keep beside the protected one.
        protected: index of a token of each image to keep in any case, (b, 1).

    Returns:
        Indices of the kept tokens (b, n) and of the others (b, l - n), ascending.
    """
    infinity = float("inf")
    scores = scores.nan_to_num(nan=-infinity, posinf=infinity, neginf=-infinity)
    if protected is not None:
        scores = scores.scatter(1, protected, infinity)
        num_kept += 1
    # Not by sorting: Inductor makes a kernel of a short sort, over which ptxas takes many minutes.
    least = scores.topk(num_kept, dim=1, sorted=False).values.amin(1, keepdim=True)
    above, equal = scores > least, scores == least
    room = num_kept - above.sum(1, keepdim=True)
    order = partition(above | (equal & (equal.cumsum(1) <= room)))  # equal: first come first
    return order[:, :num_kept], order[:, num_kept:]


def partition(mask: Tensor) -> Tensor:
    """Indices (..., l) of what is true in (..., l), ascending, and after them of the rest."""
    index = torch.arange(mask.shape[-1], device=mask.device).expand(mask.shape)
    true = mask.cumsum(-1)
    place = torch.where(mask, true - 1, true[..., -1:] + index - true)
    return torch.empty_like(place).scatter(-1, place, index)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows (b, n, ...) of (b, l, ...) by index (b, n); whole rows, so that reading coalesces."""
    first = torch.arange(0, x.shape[0] * x.shape[1], x.shape[1], device=x.device)[:, None]
    rows = x.flatten(0, 1).index_select(0, (index + first).flatten())
    return rows.unflatten(0, index.shape)


def merge(
    x: Tensor, sizes: Tensor, kept: Tensor, dropped: Tensor, protected: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Average each dropped token into the kept one whose direction is most similar.

    Args:
        x: tokens (b, l, c).
        sizes: how many tokens each of them stands for (b, l, 1).
        kept: indices (b, n), ascending.
        dropped: indices of the others (b, m).
        protected: index among `kept` of a token that takes none, (b, 1).

    Returns:
        Kept tokens (b, n, c) and their sizes (b, n, 1).
    """
    directions = F.normalize(x, dim=-1)
    similarity = take(directions, dropped) @ take(directions, kept).mT
    if protected is not None:
        similarity = similarity.scatter(
            2, protected[:, None].expand(-1, dropped.shape[1], -1), float("-inf")
        )
    # A matrix product adds in a fixed order, where scattering would use atomics.
    joins = F.one_hot(similarity.argmax(-1), kept.shape[1]).to(x.dtype).mT
    kept_sizes, dropped_sizes = take(sizes, kept), take(sizes, dropped)
    new_sizes = kept_sizes + joins @ dropped_sizes
    total = take(x, kept) * kept_sizes + joins @ (take(x, dropped) * dropped_sizes)
    return total / new_sizes, new_sizes


def carried_time(elapsed: Tensor, step_sizes: Tensor, kept: Tensor) -> Tensor:
    """Time of the removed tokens, on the next kept one of each direction: (b, 2, n, d).

    Args:
        elapsed: time up to and including each token since the one before it, (b, 2, l, d): its step
            size, and what was carried to it before. Direction 0 runs forwards, 1 backwards.
        step_sizes: the step sizes alone (b, 2, l, d).
        kept: indices (b, n), ascending.
    """
    clock = at_least_float32(elapsed).cumsum(2)
    forward = take(clock[:, 0], kept)
    forward = forward - F.pad(forward[:, :-1], (0, 0, 1, 0))
    before = take(clock[:, 1] - elapsed[:, 1], kept)
    backward = torch.cat([before[:, 1:], clock[:, 1, -1:]], dim=1) - before
    own = torch.stack([take(direction, kept) for direction in step_sizes.unbind(1)], dim=1)
    return (torch.stack([forward, backward], dim=1) - own).clamp(min=0)


def position_gaps(positions: Tensor) -> Tensor:
    """Positions since the step before, in the order of either direction: (b, 2, n), float32.

    What comes before the first token of a direction has no state to decay: it counts as 1.
    """
    gaps = positions.diff(dim=1).float()
    return F.pad(torch.stack([gaps, gaps.flip(1)], 1), (1, 0), value=1.0)


def shorten_routes(routes: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Leave all but the kept tokens out of routes that visit every token.

    Args:
        routes: (k, l).
        kept: tokens (b, n).

    Returns:
        Index among the kept tokens at each step, int32 (b, k, n); and the step of the full route
        that this was, ascending (b, k, n).
    """
    stays = kept.new_zeros(kept.shape[0], routes.shape[1]).scatter(1, kept, 1)
    routes = routes.long()
    steps = partition(stays[:, routes] > 0)[..., : kept.shape[1]]
    ordinal = (stays.cumsum(1) - 1)[:, routes]
    return ordinal.gather(2, steps).int(), steps


def route_gaps(steps: Tensor) -> Tensor:
    """Steps of the full route since the last kept one, of kept steps (b, k, n): that, float32."""
    return F.pad(steps.diff(dim=2).float(), (1, 0), value=1.0)
