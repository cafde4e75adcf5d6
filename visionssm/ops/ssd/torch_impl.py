"""SSD in matrix products over chunks: any device, any real dtype, traceable.

With s_t the sum of dt A from the start of a chunk to its step t, a chunk of T steps that starts
from the state S gives

    y_t = sum_(j <= t) exp(s_t - s_j) <C_t, B_j> dt_j x_j + exp(s_t) S C_t
    end = exp(s_T) S + sum_j exp(s_T - s_j) dt_j x_j B_j^T

so every sum over tokens is a matrix product. Ends reach later chunks by one more, over chunks: its
cost grows with the square of their number, and is that of the rest at 16,384 tokens (n = p = 64).

A length that does not divide into chunks is filled up with steps of size zero, which leave the
state alone.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import compute_dtype
from .reference import step_sizes

CHUNK = 64  # the (T, T) matrix of a head then has as many elements as its channels


def own_precision(device: torch.device) -> AbstractContextManager:
    """Products keep the dtype of their factors; without autocast, traced graphs show nothing."""
    kind = device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):  # PyTorch knows no autocast there
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def ssd_torch(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    z: Tensor | None,
    dt_softplus: bool,
    dt_limit: tuple[float, float] | None,
    initial_states: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y (b, l, h, p) in x's dtype and the final states; arguments as in `visionssm.ops.ssd`."""
    dtype = compute_dtype(x)
    dt = step_sizes(dt, dt_bias, dt_softplus, dt_limit, dtype)
    with own_precision(x.device):
        y, final = _scan(x, dt, A.to(dtype), B.to(x.dtype), C.to(x.dtype), initial_states)
    if D is not None:
        y = torch.addcmul(y, D.to(dtype).view(D.shape[0], -1), x)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(x.dtype), final


def _scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_states: Tensor | None
) -> tuple[Tensor, Tensor]:
    """y (b, l, h, p) and the final states (b, h, p, n), both in dt's dtype.

    In the subscripts: b images, c chunks, t and s steps of a chunk, g groups, q heads of a group.
    """
    l, g = x.shape[1], B.shape[2]
    chunk = CHUNK if l > CHUNK else l
    x, dt, B, C = (_chunks(t, chunk) for t in (x, dt, B, C))
    x, dt, A = x.unflatten(3, (g, -1)), dt.unflatten(3, (g, -1)), A.unflatten(0, (g, -1))
    decay = (dt * A).cumsum(2)  # its logarithm, from the start of the chunk

    scores = torch.einsum("bctgn,bcsgn->bcgts", C, B)
    log_decay = decay.permute(0, 1, 3, 4, 2)  # (b, c, g, q, t)
    between = log_decay[..., :, None] - log_decay[..., None, :]
    steps = torch.arange(chunk, device=x.device)
    between = between.masked_fill(steps > steps[:, None], float("-inf")).exp()
    mixing = scores[:, :, :, None] * between * dt.permute(0, 1, 3, 4, 2)[..., None, :]
    y = torch.einsum("bcgqts,bcsgqp->bctgqp", mixing.to(x.dtype), x).to(dt.dtype)

    to_end = dt * torch.exp(decay[:, :, -1:] - decay)
    added = (x * to_end[..., None]).to(x.dtype)
    ends = torch.einsum("bcsgn,bcsgqp->bcgqpn", B, added).to(dt.dtype)
    starts, final = _carry(ends.flatten(2, 3), decay[:, :, -1].flatten(2), initial_states)
    carried = torch.einsum("bctgn,bcgqpn->bctgqp", C, starts.unflatten(2, (g, -1)).to(x.dtype))
    y = torch.addcmul(y, carried, decay.exp()[..., None])
    return y.flatten(3, 4).flatten(1, 2)[:, :l], final


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """(b, l, ...) to (b, c, chunk, ...), filled up with zeros."""
    missing = -x.shape[1] % chunk
    if missing:
        x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, missing))
    return x.unflatten(1, (-1, chunk))


def _carry(ends: Tensor, log_decay: Tensor, initial_states: Tensor | None) -> tuple[Tensor, Tensor]:
    """States at which chunks start (b, c, h, p, n), and the one after the last (b, h, p, n).

    Args:
        ends: what each chunk would end with if it started from zero (b, c, h, p, n).
        log_decay: logarithm of what it leaves of the state at its start (b, c, h).
        initial_states: (b, h, p, n), or None for zero.
    """
    first = torch.zeros_like(ends[:, 0]) if initial_states is None else initial_states
    states = torch.cat([first.to(ends.dtype)[:, None], ends], dim=1)
    c = log_decay.shape[1]
    chunks = torch.arange(c + 1, device=ends.device)
    later = chunks[1:, None] > chunks  # (chunk passed, state that passes it)
    passed = log_decay.transpose(1, 2)[..., None].masked_fill(~later, 0.0)
    # Summed anew for every state: differences of one running sum would lose what is small.
    passed = F.pad(passed.cumsum(2), (0, 0, 1, 0))  # (b, h, chunk reached, state)
    weights = passed.masked_fill(chunks > chunks[:, None], float("-inf")).exp()
    reached = torch.einsum("bhkm,bmhpn->bkhpn", weights, states)
    return reached[:, :-1], reached[:, -1]
