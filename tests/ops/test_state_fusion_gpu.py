"""The kernels of state fusion on a CUDA device: dtypes, maps of all sizes, offsets past 2^31."""

from __future__ import annotations

import pytest
import torch

from tests.ops.state_fusion_cases import (
    assert_results_close,
    make_inputs,
    outputs_and_gradients,
    to_double,
)
from visionssm.ops import state_fusion

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grid", [(1, 1), (1, 20), (33, 1), (2, 3), (7, 7), (14, 14), (56, 41)])
@pytest.mark.parametrize("d", [1, 33, 64, 128, 200])
def test_equals_float64(dtype, grid, d):
    inputs = make_inputs(3, *grid, d, dtype=dtype, device="cuda")
    # The float64 side is PyTorch, itself held to the loop by the CPU tests.
    exact = outputs_and_gradients(to_double(inputs), "torch")
    actual = outputs_and_gradients(inputs)
    assert_results_close(actual, exact)
    again = outputs_and_gradients(inputs)
    assert all(torch.equal(actual[name], again[name]) for name in actual)


def test_opcheck_on_gpu():
    inputs = make_inputs(2, 7, 9, 40, device="cuda")
    torch.library.opcheck(torch.ops.visionssm.state_fusion.default, (*inputs.values(), "auto"))


def test_more_than_two_to_the_31_elements():
    """The last image is computed as it is alone."""
    shape = (1, 256, 256, 128)
    weight = make_inputs(1, 1, 1, shape[3], device="cuda")["weight"].detach()
    x = torch.zeros(257, *shape[1:], dtype=torch.bfloat16, device="cuda")
    x[-1] = torch.randn(shape[1:], device="cuda")
    x, weight = x.requires_grad_(), weight.requires_grad_()
    y = state_fusion(x, weight)
    grad_y = torch.zeros_like(y)
    grad_y[-1] = torch.randn(shape[1:], device="cuda")
    gx, gweight = torch.autograd.grad(y, (x, weight), grad_y)
    last = x[-1:].detach().requires_grad_()
    expected = state_fusion(last, weight)
    expected_gx, expected_gweight = torch.autograd.grad(expected, (last, weight), grad_y[-1:])
    assert torch.equal(y[-1:], expected)
    assert torch.equal(gx[-1:], expected_gx)
    error = (gweight - expected_gweight).norm() / expected_gweight.norm()
    assert error < 2.0**-24 * (16 + 256)  # other partial sums: one rounding a token, at random


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_runs_on_the_tensors_device():
    inputs = make_inputs(1, 9, 8, 20, device="cuda:1")
    assert torch.cuda.current_device() == 0
    exact = outputs_and_gradients(to_double(inputs), "torch")
    assert_results_close(outputs_and_gradients(inputs), exact)
