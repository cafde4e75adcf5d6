"""The kernels of HSM-SSD's state on a CUDA device: dtypes, odd and long lengths."""

from __future__ import annotations

import pytest
import torch

from tests.ops.hsm_ssd_cases import (
    assert_results_close,
    make_inputs,
    outputs_and_gradients,
    to_double,
)

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("l", [1, 16, 63, 196, 1000, 4200])
@pytest.mark.parametrize(("d", "n"), [(128, 49), (33, 7), (320, 9), (224, 64), (65, 256)])
def test_equals_float64(dtype, l, d, n):
    inputs = make_inputs(3, l, d, n, dtype=dtype, device="cuda")
    # The float64 side is PyTorch, itself held to the loop by the CPU tests.
    exact = outputs_and_gradients(to_double(inputs), "torch")
    actual = outputs_and_gradients(inputs)
    assert_results_close(actual, exact)
    again = outputs_and_gradients(inputs)
    assert all(torch.equal(actual[name], again[name]) for name in actual)


def test_opcheck_on_gpu():
    inputs = make_inputs(2, 50, 40, 9, device="cuda")
    torch.library.opcheck(torch.ops.visionssm.hsm_ssd.default, (*inputs.values(), "auto"))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_runs_on_the_tensors_device():
    inputs = make_inputs(1, 100, 8, 5, device="cuda:1")
    assert torch.cuda.current_device() == 0
    assert_results_close(
        outputs_and_gradients(inputs), outputs_and_gradients(to_double(inputs), "torch")
    )
