"""`selective_scan_fn`: mamba_ssm's signature and channel-first layout on the same kernels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .checks import check_channel_first_args
from .op import selective_scan_op


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Drop-in for ``mamba_ssm.ops.selective_scan_interface.selective_scan_fn``; compiles nothing.

    Args:
        u: input (b, d, l).
        delta: step sizes (b, d, l).
        A: (d, n), real.
        B: (d, n) constant in time, (b, n, l), or (b, g, n, l) where channel i uses group
            i // (d / g).
        C: as B; its form may differ from B's.
        D: skip weight (d).
        z: gate (b, d, l); the output is multiplied by silu(z) after the skip.
        delta_bias: added to delta (d).
        delta_softplus: apply softplus to the biased step size.
        return_last_state: also return the state after the last step.

    Returns:
        out (b, d, l) in u's dtype; with ``return_last_state`` also the state (b, d, n), float32.

    Raises:
        ValueError: wrong shape, dtype or device (complex A is not supported), naming the argument.
    """
    groups = check_channel_first_args(u, delta, A, B, C, D, z, delta_bias)
    b, d, l = u.shape
    n = A.shape[1]

    def split(x: Tensor) -> Tensor:  # (b, d, l) -> (b, g, l, d / g): a group is a route
        return x.unflatten(1, (groups, d // groups)).transpose(2, 3)

    def token_major(x: Tensor) -> Tensor:  # B or C -> (b, g, l, n)
        if x.dim() == 2:  # constant in time: every channel is a group of its own
            return x[None, :, None].expand(b, d, l, n)
        x = (x[:, None] if x.dim() == 3 else x).transpose(2, 3)
        if x.shape[1] < groups:
            x = x.repeat_interleave(groups // x.shape[1], dim=1)
        return x

    y, last_state = selective_scan_op(
        split(u), split(delta), A.unflatten(0, (groups, -1)), token_major(B), token_major(C),
        None if D is None else D.unflatten(0, (groups, -1)),
        None if delta_bias is None else delta_bias.unflatten(0, (groups, -1)),
        None, None, None, delta_softplus, groups, True, "auto",
    )  # fmt: skip
    out = y.transpose(2, 3).flatten(1, 2)
    if z is not None:
        out = out * F.silu(z).to(out.dtype)
    return (out, last_state.flatten(1, 2)) if return_last_state else out
