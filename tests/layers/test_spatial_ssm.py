"""SpatialSSM against the equations of the paper, pixel by pixel in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tests.layers.convolution import convolved
from visionssm.layers import SpatialSSM


def spatial_ssm_by_pixels(layer: SpatialSSM, x: torch.Tensor) -> torch.Tensor:
    """What SpatialSSM should return for x (b, h, w, dim), one pixel and one tap at a time."""
    b, h, w, _ = x.shape
    x, z = F.linear(x, layer.in_proj.weight).chunk(2, dim=-1)
    x = convolved(layer.conv2d, x)
    r = layer.dt_rank
    dt, B, C = F.linear(x, layer.x_proj_weight).split([r, 1, 1], dim=-1)
    dt = F.softplus(F.linear(dt, layer.dt_projs_weight) + layer.dt_projs_bias)
    decay = torch.exp(-dt * layer.A_logs[:, 0].exp())
    states = torch.zeros_like(x)
    state = x.new_zeros(b, x.shape[-1])
    for i in range(h):
        for j in range(w):
            state = decay[:, i, j] * state + dt[:, i, j] * B[:, i, j] * x[:, i, j]
            states[:, i, j] = state
    fusion = layer.state_fusion
    fused = torch.zeros_like(x)
    kernels = zip(
        (1, 3, 5), fusion.alpha, (fusion.kernel_3, fusion.kernel_3_1, fusion.kernel_3_2),
        strict=True,
    )  # fmt: skip
    for e, alpha, kernel in kernels:
        for i in range(h):
            for j in range(w):
                for p in range(3):
                    for q in range(3):
                        row = min(max(i + (p - 1) * e, 0), h - 1)
                        column = min(max(j + (q - 1) * e, 0), w - 1)
                        fused[:, i, j] += alpha * kernel[:, 0, p, q] * states[:, row, column]
    y = layer.out_norm(fused * C + layer.Ds * x)
    return F.linear(y * F.silu(z), layer.out_proj.weight)


def randomise(layer: SpatialSSM) -> SpatialSSM:
    """Move every parameter away from symmetric initial values."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return layer


@pytest.mark.parametrize(("dim", "grid"), [(6, (3, 5)), (20, (7, 6)), (4, (1, 4)), (4, (4, 1))])
def test_equals_the_equations_pixel_by_pixel(dim, grid):
    torch.manual_seed(0)
    layer = randomise(SpatialSSM(dim).double())
    x = torch.randn(2, *grid, dim, dtype=torch.float64)
    # The forward pass keeps exponents and step sizes in float32, hence not float64's precision.
    expected = spatial_ssm_by_pixels(layer, x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_every_parameter_and_the_input_get_gradients():
    layer = randomise(SpatialSSM(8))
    x = torch.randn(1, 3, 4, 8, requires_grad=True)
    layer(x).square().sum().backward()
    for name, tensor in {"x": x, **dict(layer.named_parameters())}.items():
        assert tensor.grad is not None, name
        assert tensor.grad.abs().max() > 0, name


def test_kernels_changed_after_an_evaluation_count():
    """The official code merges its kernels at the first evaluation, once and for all."""
    layer = randomise(SpatialSSM(8)).eval()
    x = torch.randn(1, 4, 5, 8)
    layer(x)
    other = randomise(SpatialSSM(8)).eval()
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), other(x))


def test_initial_values_are_the_official_ones():
    layer = SpatialSSM(96)
    steps = F.softplus(layer.dt_projs_bias)
    assert 1e-3 * 0.99 <= steps.min() <= 2e-3  # log-uniform: 192 draws reach both ends
    assert 5e-2 <= steps.max() <= 1e-1 * 1.01
    assert layer.A_logs.eq(0).all()
    fusion = layer.state_fusion
    for ones in (layer.Ds, fusion.alpha, fusion.kernel_3, fusion.kernel_3_1, fusion.kernel_3_2):
        assert ones.eq(1).all()
    assert layer.dt_rank == 6
    for weight, fan_in in ((layer.dt_projs_weight, 6), (layer.x_proj_weight, 192)):
        bound = 1 / math.sqrt(fan_in)
        assert 0.9 * bound < weight.abs().max() <= bound
    simple, zero = SpatialSSM(96, dt_init="simple"), SpatialSSM(96, dt_init="zero")
    assert simple.dt_projs_weight.std().item() == pytest.approx(0.1, rel=0.1)
    assert 0.09 < zero.dt_projs_weight.max() <= 0.1
    assert zero.dt_projs_bias.min() >= 0


def test_scan_parameters_stay_float32_in_a_low_precision_layer():
    layer = SpatialSSM(8, dtype=torch.bfloat16)
    fp32 = {name for name, p in layer.named_parameters() if p.dtype == torch.float32}
    assert fp32 == {"A_logs", "Ds", "dt_projs_bias"}
    assert layer(torch.randn(1, 4, 4, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_maps_stay_channels_last_between_convolution_scan_and_fusion():
    """No copy of the map is made between them: layouts only change as views."""
    layer = SpatialSSM(16)
    seen = []
    for module in (layer.conv2d, layer.state_fusion):
        module.register_forward_hook(lambda module, args, out: seen.extend([args[0], out]))
    layer(torch.randn(2, 5, 6, 16))
    assert len(seen) == 4
    for t in seen:  # as rows of pixels, channels adjacent; a share of the projection at first
        assert t.stride(3) == 1
        assert t.stride(1) == 6 * t.stride(2)


def test_a_float64_layer_computes_in_float64():
    layer = SpatialSSM(4).double()
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    before = layer(x)
    with torch.no_grad():
        layer.A_logs.add_(1e-9)
        layer.dt_projs_bias.add_(1e-9)
    change = (layer(x) - before).abs().max()
    assert 0 < change < 1e-7


def test_unknown_initialisations_are_named():
    with pytest.raises(ValueError, match=r"dt_init: expected one of .*, got 'constant'"):
        SpatialSSM(8, dt_init="constant")
