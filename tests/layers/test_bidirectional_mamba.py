"""BidirectionalMamba against the recurrence of the paper, token by token in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from visionssm.layers import BidirectionalMamba, LayerNormFp32, RmsNormFp32


def mixer_by_tokens(layer: BidirectionalMamba, x: torch.Tensor) -> torch.Tensor:
    """What the layer should return: the reverse direction runs on the flipped sequence."""
    x, z = F.linear(x, layer.in_proj.weight).chunk(2, dim=-1)
    directions = [
        one_direction(layer, k, x.flip(1) if k else x, z.flip(1) if k else z) for k in (0, 1)
    ]
    out = F.linear(directions[0] + directions[1].flip(1), layer.out_proj.weight)
    return out / 2 if layer.average else out


def one_direction(layer, k, x, z):
    d, n, r = x.shape[-1], layer.d_state, layer.dt_rank

    def own(parameter):
        return parameter.chunk(2)[k]

    taps, l = layer.conv_weight.shape[-1], x.shape[1]
    conv = F.conv1d(
        x.transpose(1, 2), own(layer.conv_weight), own(layer.conv_bias), padding=taps - 1, groups=d
    )
    x = F.silu(conv[..., :l].transpose(1, 2))
    A = -own(layer.A_log).exp()
    state, out = x.new_zeros(len(x), d, n), []
    for t in range(l):
        u = x[:, t]
        dt, B, C = (u @ own(layer.x_proj_weight).T).split([r, n, n], dim=-1)
        dt = F.softplus(dt @ own(layer.dt_proj_weight).T + own(layer.dt_proj_bias))
        state = torch.exp(dt[..., None] * A) * state + (dt * u)[..., None] * B[:, None]
        out.append((state * C[:, None]).sum(-1) + own(layer.D) * u)
    return torch.stack(out, dim=1) * F.silu(z)


def randomise(layer: nn.Module) -> None:
    """Move every parameter away from symmetric initial values."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)


@pytest.mark.parametrize("options", [
    {},
    {"average": False, "expand": 1},
    {"kernel_size": 1, "d_state": 1},
    {"kernel_size": 3},
    {"kernel_size": 6, "d_state": 5},
])  # fmt: skip
@pytest.mark.parametrize("length", [1, 2, 9])
def test_equals_the_recurrence_token_by_token(options, length):
    torch.manual_seed(0)
    layer = BidirectionalMamba(20, **{"d_state": 4, **options}).double()
    randomise(layer)
    x = torch.randn(2, length, 20, dtype=torch.float64)
    torch.testing.assert_close(layer(x), mixer_by_tokens(layer, x), rtol=1e-10, atol=1e-10)


def test_every_parameter_and_the_input_get_gradients():
    layer = BidirectionalMamba(8)
    randomise(layer)
    x = torch.randn(1, 7, 8, requires_grad=True)
    layer(x).square().sum().backward()
    for name, tensor in {"x": x, **dict(layer.named_parameters())}.items():
        assert tensor.grad is not None, name
        assert all(half.abs().max() > 0 for half in tensor.grad.chunk(2)), name


def test_initial_step_sizes_and_decay_rates_are_the_official_ones():
    layer = BidirectionalMamba(192, d_state=4)
    forward, reverse = layer.dt_proj_bias.chunk(2)
    steps = F.softplus(forward)
    assert 1e-3 * 0.99 <= steps.min() <= 2e-3  # log-uniform: 384 draws reach both ends
    assert 5e-2 <= steps.max() <= 1e-1 * 1.01
    assert reverse.eq(0).all()
    rates = torch.exp(layer.A_log)
    torch.testing.assert_close(rates, torch.arange(1.0, 5.0).expand_as(rates))
    assert layer.D.eq(1).all()
    assert layer.dt_rank == 12
    for parameter, fan in (
        (layer.dt_proj_weight, 12), (layer.x_proj_weight, 384), (layer.conv_weight, 4),
    ):  # fmt: skip
        bound = 1 / math.sqrt(fan)
        assert 0.9 * bound < parameter.abs().max() <= bound


def test_scan_parameters_stay_float32_in_a_low_precision_layer():
    layer = BidirectionalMamba(8, dtype=torch.bfloat16)
    fp32 = {name for name, p in layer.named_parameters() if p.dtype == torch.float32}
    assert fp32 == {"A_log", "D", "dt_proj_bias"}
    assert layer(torch.randn(1, 5, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_tokens_are_neither_flipped_nor_copied_for_the_scan(monkeypatch):
    """Both directions are one scan of what the convolutions gave, read through a view."""
    layer, scans = BidirectionalMamba(16), []
    module = "visionssm.layers.bidirectional_mamba"
    from visionssm.ops import selective_scan

    monkeypatch.setattr(
        f"{module}.selective_scan",
        lambda *args, **kwargs: scans.append((args, kwargs)) or selective_scan(*args, **kwargs),
    )
    layer(torch.randn(2, 9, 16))
    ((u, *_), options), *others = scans
    assert not others
    assert u.shape == (2, 2, 9, 32)
    assert u.transpose(1, 2).is_contiguous()
    assert options["routes"].tolist() == [[*range(9)], [*range(8, -1, -1)]]


@pytest.mark.parametrize("argument", ["expand", "kernel_size", "d_state"])
def test_impossible_options_are_named(argument):
    with pytest.raises(ValueError, match=f"^{argument}: "):
        BidirectionalMamba(8, **{argument: 0})


@pytest.mark.parametrize("norm", [RmsNormFp32, LayerNormFp32])
def test_norms_compute_in_float32_and_answer_in_the_dtype_of_their_weight(norm):
    layer = norm(6, eps=1e-5).bfloat16()
    randomise(layer)
    x = torch.randn(3, 6) * 100
    expected = x - x.mean(-1, keepdim=True) if norm is LayerNormFp32 else x
    expected = expected / (expected.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    expected = expected * layer.weight.float()
    if norm is LayerNormFp32:
        expected = expected + layer.bias.float()
    torch.testing.assert_close(layer(x), expected.bfloat16())


@pytest.mark.parametrize("norm", [RmsNormFp32, LayerNormFp32])
def test_norms_without_a_weight_answer_in_the_dtype_of_their_input(norm):
    x = torch.randn(3, 6)
    plain = norm.__base__(6, eps=1e-5, elementwise_affine=False)
    layer = norm(6, eps=1e-5, elementwise_affine=False)
    torch.testing.assert_close(layer(x), plain(x))
    torch.testing.assert_close(layer(x.bfloat16()), plain(x.bfloat16().float()).bfloat16())
    torch.testing.assert_close(LayerNormFp32(6, bias=False)(x), F.layer_norm(x, (6,)))
