"""SS2D against the recurrence of the paper, pixel by pixel in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from visionssm.layers import SS2D


def paths(h: int, w: int) -> list[list[tuple[int, int]]]:
    """The four orders of VMamba as lists of pixels."""
    rows = [(i, j) for i in range(h) for j in range(w)]
    columns = [(i, j) for j in range(w) for i in range(h)]
    return [rows, columns, rows[::-1], columns[::-1]]


def ss2d_by_pixels(layer: SS2D, x: torch.Tensor) -> torch.Tensor:
    """What SS2D should return for x (b, h, w, dim), one pixel and one direction at a time."""
    b, h, w, _ = x.shape
    x = F.linear(x, layer.in_proj.weight)
    z = None
    if layer.gate:
        d = x.shape[-1] // 2
        x, z = x[..., :d], x[..., d:]
    if isinstance(layer.conv2d, nn.Conv2d):
        x = layer.conv2d(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    x = layer.act(x)
    d, n, r = x.shape[-1], layer.d_state, layer.dt_rank
    out = torch.zeros_like(x)
    for k, path in enumerate(paths(h, w)):
        A = -layer.A_logs.view(4, d, n)[k].exp()
        state = x.new_zeros(b, d, n)
        for i, j in path:
            u = x[:, i, j]
            dt, B, C = (u @ layer.x_proj_weight[k].T).split([r, n, n], dim=-1)
            dt = F.softplus(dt @ layer.dt_projs_weight[k].T + layer.dt_projs_bias[k])
            state = torch.exp(dt[..., None] * A) * state + (dt * u)[..., None] * B[:, None]
            out[:, i, j] += (state * C[:, None]).sum(-1) + layer.Ds.view(4, d)[k] * u
    out = layer.out_act(layer.out_norm(out))
    if z is not None:
        out = out * layer.gate_act(z)
    return F.linear(out, layer.out_proj.weight)


def randomise(layer: nn.Module) -> None:
    """Move every parameter away from symmetric initial values."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)


@pytest.mark.parametrize("options", [
    {},
    {"gate": False, "conv_bias": False, "d_state": 1, "ssm_ratio": 1.0},
    {"gate_act": False, "out_act_layer": nn.GELU, "dt_rank": 3, "ssm_ratio": 1.5},
    {"kernel_size": 1, "act_layer": nn.GELU, "init": "v1"},
    {"kernel_size": 5, "d_state": 3, "init": "v2"},
])  # fmt: skip
@pytest.mark.parametrize("grid", [(3, 5), (1, 4), (4, 1)])
def test_equals_the_recurrence_pixel_by_pixel(options, grid):
    torch.manual_seed(0)
    layer = SS2D(6, **{"d_state": 4, **options}).double()
    randomise(layer)
    # The forward pass keeps exponents and step sizes in float32, hence not float64's precision.
    x = torch.randn(2, *grid, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), ss2d_by_pixels(layer, x), rtol=1e-5, atol=1e-5)


def test_every_parameter_and_the_input_get_gradients():
    layer = SS2D(8)
    randomise(layer)
    x = torch.randn(1, 3, 4, 8, requires_grad=True)
    layer(x).square().sum().backward()
    for name, tensor in {"x": x, **dict(layer.named_parameters())}.items():
        assert tensor.grad is not None, name
        assert tensor.grad.abs().max() > 0, name


def test_initial_step_sizes_and_decay_rates_are_mambas():
    layer = SS2D(48, d_state=4, ssm_ratio=2.0)
    steps = F.softplus(layer.dt_projs_bias)
    assert 1e-3 * 0.99 <= steps.min() <= 2e-3  # log-uniform: 384 draws reach both ends
    assert 5e-2 <= steps.max() <= 1e-1 * 1.01
    rates = torch.exp(layer.A_logs)
    torch.testing.assert_close(rates, torch.arange(1.0, 5.0).expand_as(rates))
    assert layer.Ds.eq(1).all()
    assert layer.dt_rank == 3
    bound = 1 / math.sqrt(layer.dt_rank)
    assert 0.9 * bound < layer.dt_projs_weight.abs().max() <= bound
    bound = 1 / math.sqrt(96)
    assert 0.9 * bound < layer.x_proj_weight.abs().max() <= bound


def test_scan_parameters_stay_float32_in_a_low_precision_layer():
    layer = SS2D(8, dtype=torch.bfloat16)
    fp32 = {name for name, p in layer.named_parameters() if p.dtype == torch.float32}
    assert fp32 == {"A_logs", "Ds", "dt_projs_bias"}
    assert layer(torch.randn(1, 4, 4, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_the_convolution_reads_and_writes_channels_last():
    """No copy of the map is made on the way into the scan: layouts only change as views."""
    layer = SS2D(16, gate=False)
    seen = []
    layer.conv2d.register_forward_hook(lambda module, args, out: seen.extend([args[0], out]))
    layer(torch.randn(2, 5, 6, 16))
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in seen)


@pytest.mark.parametrize(("options", "argument"), [
    ({"kernel_size": 2}, "kernel_size"),
    ({"init": "v9"}, "init"),
    ({"ssm_ratio": 0.0}, "ssm_ratio"),
    ({"scan": "nowhere"}, "scan"),
])  # fmt: skip
def test_impossible_options_are_named(options, argument):
    with pytest.raises(ValueError, match=f"^{argument}: "):
        SS2D(8, **options)
