"""Argument checks of the selective scan: every error names the argument, what came, what fits."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..dispatch import FLOATING

MAX_STATE_SIZE = 64

# Tables are used again and again: the version, token count and promise each was found right for.
_checked_routes = WeakIdKeyDictionary()


def check_selective_scan_args(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    elapsed: Tensor | None,
    gaps: Tensor | None,
    routes: Tensor | None,
    reduce: str,
    complete: bool,
) -> None:
    """Raise ValueError unless the arguments form a valid call of `selective_scan`."""
    if delta.dim() != 4:
        raise ValueError(f"delta: expected 4 dimensions (b, k, l, d), got shape {_shape(delta)}")
    b, k, l, d = delta.shape
    if 0 in (k, l, d):
        raise ValueError(
            f"delta: expected at least one route, token and channel, got shape {_shape(delta)}"
        )
    if A.dim() != 3 or tuple(A.shape[:2]) != (k, d) or not 1 <= A.shape[2] <= MAX_STATE_SIZE:
        raise ValueError(
            f"A: expected (k, d, n) = ({k}, {d}, 1..{MAX_STATE_SIZE}), got {_shape(A)}"
        )
    n = A.shape[2]
    if u.dim() != 4 or (u.shape[0], *u.shape[2:]) != (b, l, d) or k % (u.shape[1] or k + 1):
        raise ValueError(f"u: expected ({b}, p, {l}, {d}), p dividing {k} routes, got {_shape(u)}")
    for name, tensor, shape in (
        ("B", B, (b, k, l, n)),
        ("C", C, (b, k, l, n)),
        ("D", D, (k, d)),
        ("delta_bias", delta_bias, (k, d)),
        ("elapsed", elapsed, (b, k, l, d)),
    ):
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: expected {shape}, got {_shape(tensor)}")
    named = {"delta": delta, "A": A, "B": B, "C": C, "D": D, "delta_bias": delta_bias}
    for name, tensor in {"u": u, **named, "elapsed": elapsed}.items():
        if tensor is None:
            continue
        if tensor.dtype not in FLOATING:
            raise ValueError(f"{name}: expected a real floating dtype, got {tensor.dtype}")
        if tensor.device != u.device:
            raise ValueError(f"{name}: expected device {u.device} as u, got {tensor.device}")
    if gaps is not None:
        _check_gaps(gaps, elapsed, (b, k, l if routes is None else routes.shape[-1]), u.device)
    if reduce not in ("none", "shared", "sum"):
        raise ValueError(f"reduce: expected 'none', 'shared' or 'sum', got {reduce!r}")
    if routes is not None:
        _check_routes(routes, b, k, l, u.device, complete)


def _check_gaps(
    gaps: Tensor, elapsed: Tensor | None, shape: tuple[int, ...], device: torch.device
) -> None:
    if tuple(gaps.shape) != shape:
        raise ValueError(f"gaps: expected {shape}, one a step, got {_shape(gaps)}")
    if elapsed is not None:
        raise ValueError("gaps: expected None beside elapsed, which says the same")
    if gaps.dtype not in (*FLOATING, torch.int32, torch.int64):
        raise ValueError(f"gaps: expected a real floating dtype, int32 or int64, got {gaps.dtype}")
    if gaps.device != device:
        raise ValueError(f"gaps: expected device {device} as u, got {gaps.device}")
    if gaps.requires_grad:
        raise ValueError("gaps: expected a tensor without requires_grad, for it has no gradient")


def _check_routes(
    routes: Tensor, b: int, k: int, l: int, device: torch.device, complete: bool
) -> None:
    if routes.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"routes: expected int32 or int64, got {routes.dtype}")
    if routes.device != device:
        raise ValueError(f"routes: expected device {device} as u, got {routes.device}")
    per_image = routes.dim() == 3 and routes.shape[0] == b
    if not (routes.dim() == 2 or per_image) or routes.shape[-2] != k:
        raise ValueError(f"routes: expected ({k}, s) or ({b}, {k}, s), got {_shape(routes)}")
    if routes.shape[-1] == 0:
        raise ValueError("routes: expected at least one step, got none")
    if complete and routes.shape[-1] != l:
        raise ValueError(
            f"complete: expected routes of {l} steps, one a token, got {_shape(routes)}"
        )
    # Values can be read where reading is free: not while tracing and not on a GPU.
    if device.type != "cpu" or torch.compiler.is_compiling() or type(routes) is not Tensor:
        return
    version = None if routes.is_inference() else routes._version
    if version is not None and _checked_routes.get(routes) == (version, l, complete):
        return
    low, high, least = int(routes.min()), int(routes.max()), 0 if complete else -1
    if low < least or high >= l:
        promise = " of complete routes" if complete else ""
        raise ValueError(
            f"routes: expected indices{promise} in [{least}, {l}), got [{low}, {high}]"
        )
    visits = torch.zeros(*routes.shape[:-1], l + 1, dtype=torch.int32, device=device)
    visits.scatter_add_(-1, routes.long().where(routes >= 0, l), torch.ones_like(routes).int())
    if int(visits[..., :l].max()) > 1:
        raise ValueError("routes: a route visits a token more than once")
    _checked_routes[routes] = (version, l, complete)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def check_channel_first_args(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> int:
    """Raise ValueError unless the arguments form a valid call of `selective_scan_fn`.

    Returns:
        The number g of channel groups to scan as routes: the groups of B and C, refined to agree.
    """
    if u.dim() != 3 or 0 in u.shape[1:]:
        raise ValueError(f"u: expected (b, d, l) with d, l >= 1, got {_shape(u)}")
    b, d, l = u.shape
    if A.is_complex():
        raise ValueError("A: complex decay is not supported, expected a real (d, n) tensor")
    if A.dim() != 2 or A.shape[0] != d or not 1 <= A.shape[1] <= MAX_STATE_SIZE:
        raise ValueError(f"A: expected ({d}, 1..{MAX_STATE_SIZE}), got {_shape(A)}")
    n = A.shape[1]
    for name, tensor, shape in (
        ("delta", delta, (b, d, l)),
        ("z", z, (b, d, l)),
        ("D", D, (d,)),
        ("delta_bias", delta_bias, (d,)),
    ):
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: expected {shape}, got {_shape(tensor)}")
    for name, tensor in (("B", B), ("C", C)):
        shapes: list[tuple[int, ...]] = [(d, n), (b, n, l)]
        if tensor.dim() == 4 and tensor.shape[1] > 0 and d % tensor.shape[1] == 0:
            shapes.append((b, tensor.shape[1], n, l))
        if tuple(tensor.shape) not in shapes:
            raise ValueError(
                f"{name}: expected ({d}, {n}), ({b}, {n}, {l}) or ({b}, g, {n}, {l}) "
                f"with g dividing {d}, got {_shape(tensor)}"
            )
    named = {"delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    for name, other in {"u": u, **named}.items():
        if other is not None and other.dtype not in FLOATING:
            raise ValueError(f"{name}: expected a real floating dtype, got {other.dtype}")
        if other is not None and other.device != u.device:
            raise ValueError(f"{name}: expected device {u.device} as u, got {other.device}")
    return math.lcm(_num_groups(B, d), _num_groups(C, d))


def _num_groups(x: Tensor, d: int) -> int:
    return {2: d, 3: 1}.get(x.dim(), x.shape[1])
