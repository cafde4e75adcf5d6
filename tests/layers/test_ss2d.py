"""SS2D against the recurrence of the paper, pixel by pixel in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.layers.convolution import convolved
from visionssm.layers import SS2D
from visionssm.scans import Scan, get_scan, list_scans

SCANS = [*list_scans(), "window(size=2)", "multi_head(heads='CZ')"]
Path = list[tuple[int, int] | None]  # None is a padding step
# Both sides compute in float64. The errors of a hundred or so operations in a row are far below.
FLOAT64 = {"rtol": 1e-10, "atol": 1e-10}


def paths(h: int, w: int) -> list[Path]:
    """The four orders of VMamba as lists of pixels."""
    rows = [(i, j) for i in range(h) for j in range(w)]
    columns = [(i, j) for j in range(w) for i in range(h)]
    return [rows, columns, rows[::-1], columns[::-1]]


def paths_of(scan: Scan, h: int, w: int) -> list[Path]:
    """The routes of a scan as lists of pixels."""
    table = scan.function((h, w)).tolist()
    return [[divmod(token, w) if token >= 0 else None for token in route] for route in table]


def ss2d_by_pixels(
    layer: SS2D, x: torch.Tensor, routes: list[Path], slices: int = 1
) -> torch.Tensor:
    """What SS2D should return for x (b, h, w, dim), one pixel and one route at a time."""
    b = x.shape[0]
    x = F.linear(x, layer.in_proj.weight)
    z = None
    if layer.gate:
        x, z = x.tensor_split(2, dim=-1)
    if isinstance(layer.conv2d, nn.Conv2d):
        x = convolved(layer.conv2d, x)
    x = layer.act(x)
    n, r, d, count = layer.d_state, layer.dt_rank, x.shape[-1] // slices, len(routes)
    out = torch.zeros_like(x)
    for k, path in enumerate(routes):
        first = k * slices // count * d  # channel of the slice
        A = -layer.A_logs.view(count, d, n)[k].exp()
        state = x.new_zeros(b, d, n)
        for pixel in path:
            u = x.new_zeros(b, d)
            if pixel is not None:
                u = x[:, pixel[0], pixel[1], first : first + d]
            dt, B, C = (u @ layer.x_proj_weight[k].T).split([r, n, n], dim=-1)
            dt = F.softplus(dt @ layer.dt_projs_weight[k].T + layer.dt_projs_bias[k])
            state = torch.exp(dt[..., None] * A) * state + (dt * u)[..., None] * B[:, None]
            if pixel is not None:
                y = (state * C[:, None]).sum(-1) + layer.Ds.view(count, d)[k] * u
                out[:, pixel[0], pixel[1], first : first + d] += y
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
    x = torch.randn(2, *grid, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), ss2d_by_pixels(layer, x, paths(*grid)), **FLOAT64)


@pytest.mark.parametrize("name", SCANS)
def test_every_scan_equals_the_recurrence_along_its_routes(name):
    """Values and gradients; routes that share the channels read and write slices of them."""
    torch.manual_seed(0)
    scan = get_scan(name)
    layer = SS2D(4, d_state=2, scan=name).double()
    randomise(layer)
    x = torch.randn(1, 5, 4, 4, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    actual = layer(x)
    expected = ss2d_by_pixels(layer, x, paths_of(scan, 5, 4), scan.num_slices)
    torch.testing.assert_close(actual, expected, **FLOAT64)
    weight = torch.randn_like(actual)
    torch.testing.assert_close(
        torch.autograd.grad(actual, inputs, weight),
        torch.autograd.grad(expected, inputs, weight),
        **FLOAT64,
    )


def test_a_scan_object_does_as_its_name():
    layer = SS2D(8, scan="snake")
    unnamed = SS2D(8, scan=Scan("mine", get_scan("snake").function, num_routes=4))
    unnamed.load_state_dict(layer.state_dict())
    x = torch.randn(1, 3, 4, 8)
    assert torch.equal(unnamed(x), layer(x))


def test_routes_of_a_slice_leave_the_other_channels_alone():
    layer = SS2D(8, d_state=2, ssm_ratio=1.0, gate=False, scan="multi_head")
    x = torch.randn(1, 4, 4, 8)
    y = layer.scan_map(x)
    x[..., 2:4] += 1.0  # the second of four heads
    changed = (layer.scan_map(x) - y).abs().amax((0, 1, 2)) > 0
    assert changed.tolist() == [False] * 2 + [True] * 2 + [False] * 4


@pytest.mark.parametrize("scan", ["hilbert", "multi_head", "window(size=2)", "atrous"])
def test_any_scan_compiles_into_one_graph(scan):
    layer = SS2D(8, d_state=2, scan=scan)
    x = torch.randn(1, 4, 6, 8)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("scan", ["hilbert", "zigzag", "window(size=3)", "atrous"])
def test_weights_fit_every_scan_with_as_many_routes(scan):
    layer, weights = SS2D(8, scan=scan), SS2D(8).state_dict()
    layer.load_state_dict(weights)
    assert all(torch.equal(value, weights[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize(("scan", "expected"), [
    ("raster", r"'raster' has \(routes, channels of each\) = \(1, 16\)"),
    ("atrous(step=3)", r"'atrous\(step=3\)' has \(routes, channels of each\) = \(9, 16\)"),
    ("multi_head", r"'multi_head' has \(routes, channels of each\) = \(16, 4\)"),
])  # fmt: skip
def test_weights_of_other_routes_are_refused_by_the_name_of_the_scan(scan, expected):
    holder = nn.Sequential(SS2D(8, scan=scan))
    weights = nn.Sequential(SS2D(8)).state_dict()
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=rf"0\.scan: {expected}, .* have \(4, 16\)"):
            holder.load_state_dict(weights, strict=strict)


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
    assert len(seen) == 2
    assert all(t.is_contiguous() for t in seen)


@pytest.mark.parametrize(("options", "argument"), [
    ({"kernel_size": 2}, "kernel_size"),
    ({"init": "v9"}, "init"),
    ({"ssm_ratio": 0.0}, "ssm_ratio"),
    ({"scan": "nowhere"}, "scan"),
    ({"scan": {"type": "cross_scan"}}, "scan"),
    ({"dt_rank": 0}, "dt_rank"),
    ({"dt_rank": "half"}, "dt_rank"),
    ({"d_state": 0}, "d_state"),
    ({"d_state": 65}, "d_state"),
    ({"scan": "multi_head(heads='CXS')"}, "scan"),  # three slices of 16 channels
])  # fmt: skip
def test_impossible_options_are_named(options, argument):
    with pytest.raises(ValueError, match=f"^{argument}: "):
        SS2D(8, **options)
