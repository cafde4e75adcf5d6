"""The kernels of depthwise convolution on a CUDA device: dtypes, sizes, offsets past 2^31."""

from __future__ import annotations

import pytest
import torch

from tests.ops.depthwise_conv_cases import (
    Case,
    assert_results_close,
    make_inputs,
    outputs_and_gradients,
    to_double,
)
from visionssm.ops import depthwise_conv

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", [
    *(Case(3, *grid, d) for grid in ((1, 1), (33, 1), (2, 3), (56, 41)) for d in (1, 33, 96, 200)),
    Case(2, 14, 14, 384, activation="silu"),
    Case(2, 197, 1, 384, repeats=2, taps=(7, 1)),
    Case(2, 197, 1, 384, repeats=2, taps=(4, 1), padding=(3, 0), activation="silu", mirrored=True),
    Case(2, 20, 9, 24, taps=(2, 5), padding=(1, 0)),
    Case(2, 20, 19, 64, taps=(7, 7)),
])  # fmt: skip
def test_equals_float64(dtype, case):
    inputs = make_inputs(case, dtype=dtype, device="cuda")
    # The float64 side is PyTorch, itself held to the loop by the CPU tests.
    exact = outputs_and_gradients(to_double(inputs), case, "torch")
    actual = outputs_and_gradients(inputs, case)
    assert_results_close(actual, exact, case.activation is not None)
    again = outputs_and_gradients(inputs, case)
    assert all(torch.equal(actual[name], again[name]) for name in actual)


def test_more_than_two_to_the_31_elements():
    """The last image is computed as it is alone."""
    shape = (1, 256, 256, 128)
    weight = make_inputs(Case(1, 1, 1, 128), device="cuda")["weight"]
    x = torch.zeros(257, *shape[1:], dtype=torch.bfloat16, device="cuda")
    x[-1] = torch.randn(shape[1:], device="cuda")
    x.requires_grad_()
    y = depthwise_conv(x, weight)
    grad_y = torch.zeros_like(y)
    grad_y[-1] = torch.randn(shape[1:], device="cuda")
    gx, gweight = torch.autograd.grad(y, (x, weight), grad_y)
    last = x[-1:].detach().requires_grad_()
    expected = depthwise_conv(last, weight)
    expected_gx, expected_gweight = torch.autograd.grad(expected, (last, weight), grad_y[-1:])
    assert torch.equal(y[-1:], expected)
    assert torch.equal(gx[-1:], expected_gx)
    error = (gweight - expected_gweight).norm() / expected_gweight.norm()
    assert error < 2.0**-24 * (16 + 256)  # other partial sums: one rounding a token, at random


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_runs_on_the_tensors_device():
    case = Case(1, 9, 8, 20)
    inputs = make_inputs(case, device="cuda:1")
    assert torch.cuda.current_device() == 0
    exact = outputs_and_gradients(to_double(inputs), case, "torch")
    assert_results_close(outputs_and_gradients(inputs, case), exact, activated=False)
