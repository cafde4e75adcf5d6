"""Linear maps of which every route has its own, in one matrix product where that is faster."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models import register_notrace_function
from torch import Tensor


@register_notrace_function  # looks at the device
def project_routes(x: Tensor, weight: Tensor) -> Tensor:
    """Each route's own linear map: (b, l, k, i) and (k, o, i) to (b, l, k, o)."""
    if len(weight) == 1:
        return F.linear(x, weight[0])
    if x.is_cuda:
        return F.linear(x.flatten(2), block_diagonal(weight)).unflatten(-1, (len(weight), -1))
    return torch.einsum("blki,koi->blko", x, weight)


@register_notrace_function
def project_slices(x: Tensor, weight: Tensor) -> Tensor:
    """Linear maps of k routes, k / p to a slice: (b, l, p, d) and (k, o, d) to (b, l, k, o)."""
    by_slice = weight.unflatten(0, (x.shape[2], -1)).flatten(1, 2)
    return project_routes(x, by_slice).flatten(2).unflatten(-1, (len(weight), -1))


@register_notrace_function
def project_step_sizes(x: Tensor, weight: Tensor) -> Tensor:
    """Second projection of the step sizes, (b, l, k, r + 2 n) and (k, d, r) to (b, k, l, d).

    On a GPU it takes the whole output of the first projection, whose other 2 n numbers, B and C,
    meet zeros: a view of the r would have to be copied.
    """
    r = weight.shape[-1]
    if x.is_cuda:
        weight = F.pad(weight, (0, x.shape[-1] - r))
    else:
        x = x[..., :r]
    return project_routes(x, weight).transpose(1, 2)


def block_diagonal(weight: Tensor) -> Tensor:
    """(k, o, i) as one matrix (k o, k i), zero where routes would meet.

    On a GPU one product of plain, aligned matrices takes less time than k small ones, forward and
    backward, in spite of the zeros.
    """
    own = torch.eye(len(weight), device=weight.device, dtype=weight.dtype)
    return (weight.unsqueeze(2) * own[:, None, :, None]).flatten(2).flatten(0, 1)
