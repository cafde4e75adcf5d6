"""VSSD's mixer: the op between projections, groups and sign, precision, initialisation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.layers.convolution import convolved
from visionssm.layers import NonCausalSSD


def by_hand(mixer: NonCausalSSD, x: torch.Tensor, d_state: int) -> torch.Tensor:
    """The paper's equations, head by head, in the channel-first layout of images."""
    b, h, w, _ = x.shape
    z, xBC, dt = mixer.in_proj(x).split(mixer.projected, dim=-1)
    xBC = convolved(mixer.conv2d, xBC).flatten(1, 2).mT  # (b, c, l)
    d, groups = z.shape[-1], mixer.num_groups
    x, B, C = xBC.split([d, groups * d_state, groups * d_state], dim=1)
    heads = []
    for i, x_head in enumerate(x.chunk(mixer.num_heads, dim=1)):
        group = slice(i % groups * d_state, (i % groups + 1) * d_state)
        step = F.softplus(dt[..., i].flatten(1) + mixer.dt_bias[i])
        rate = mixer.A_log[i].exp() * (1 if mixer.positive else -1)
        state = torch.einsum("bnl,bl,bpl->bnp", B[:, group], step * rate, x_head)
        y = torch.einsum("bnl,bnp->bpl", C[:, group], state) + mixer.D[i] * x_head
        heads.append(y)
    y = torch.cat(heads, dim=1).transpose(1, 2).unflatten(1, (h, w))
    return mixer.out_proj(mixer.norm(y) * z)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize(("num_groups", "expand"), [(1, 2), (2, 1), (4, 2)])
@pytest.mark.parametrize("size", [(1, 1), (5, 8)])
def test_equals_the_equations(size, num_groups, expand, positive):
    torch.manual_seed(0)
    mixer = NonCausalSSD(8, 4, 3, expand, num_groups, positive).double()
    with torch.no_grad():
        mixer.D.normal_()
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), by_hand(mixer, x, 3), rtol=1e-12, atol=1e-12)


def test_step_sizes_and_decay_rates_start_in_their_ranges():
    mixer = NonCausalSSD(64, 32)
    steps, rates = F.softplus(mixer.dt_bias), mixer.A_log.exp()
    assert 1e-3 * 0.99 <= steps.min() < steps.max() <= 1e-1 * 1.01
    assert 1 <= rates.min() < rates.max() <= 16
    assert mixer.D.eq(1).all()


def test_scan_parameters_stay_float32_in_bfloat16():
    mixer = NonCausalSSD(8, 2, dtype=torch.bfloat16)
    kept = {name for name, p in mixer.named_parameters() if p.dtype == torch.float32}
    assert kept == {"dt_bias", "A_log", "D"}
    assert mixer(torch.randn(1, 3, 4, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(("options", "message"), [
    ({"num_heads": 3}, "num_heads: expected a divisor of 16 channels, got 3"),
    ({"num_heads": 4, "num_groups": 3}, "num_groups: expected a divisor of 4 heads, got 3"),
])  # fmt: skip
def test_heads_and_groups_that_do_not_divide_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        NonCausalSSD(8, **options)
