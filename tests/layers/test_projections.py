"""Projections of all routes at once, against a product for each route."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.models.golden import DEVICES
from visionssm.layers.projections import block_diagonal, project_routes, project_step_sizes


def by_route(x: Tensor, weight: Tensor) -> Tensor:
    """(b, l, k, i) and (k, o, i) to (b, l, k, o), one route after the other."""
    return torch.stack([x[:, :, k] @ weight[k].T for k in range(len(weight))], dim=2)


def test_block_diagonal_is_a_product_for_each_route():
    x, weight = torch.randn(2, 7, 3, 5), torch.randn(3, 4, 5)
    joint = (x.flatten(2) @ block_diagonal(weight).T).unflatten(-1, (3, 4))
    torch.testing.assert_close(joint, by_route(x, weight))


@pytest.mark.parametrize("device", DEVICES)
def test_every_route_has_its_own_projection(device):
    x = torch.randn(2, 7, 3, 5, dtype=torch.float64, device=device, requires_grad=True)
    weight = torch.randn(3, 4, 5, dtype=torch.float64, device=device, requires_grad=True)
    got, expected = project_routes(x, weight), by_route(x, weight)
    torch.testing.assert_close(got, expected)
    grad = torch.randn_like(got)
    torch.testing.assert_close(
        torch.autograd.grad(got, (x, weight), grad),
        torch.autograd.grad(expected, (x, weight), grad),
    )


@pytest.mark.parametrize("device", DEVICES)
def test_step_sizes_come_of_the_first_numbers_of_a_route(device):
    x = torch.randn(2, 7, 3, 5, dtype=torch.float64, device=device)
    weight = torch.randn(3, 4, 2, dtype=torch.float64, device=device)
    expected = by_route(x[..., :2], weight).transpose(1, 2)
    torch.testing.assert_close(project_step_sizes(x, weight), expected)
