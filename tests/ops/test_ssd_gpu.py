"""The kernels of causal SSD on a CUDA device: dtypes, odd lengths, wide heads and states."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from tests.ops.ssd_cases import (
    assert_results_close,
    largest_log_decay,
    make_inputs,
    outputs_and_gradients,
    to_double,
)
from visionssm.ops import ssd

pytestmark = pytest.mark.gpu
ssd_and_states = partial(ssd, return_final_states=True)


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("l", [1, 16, 63, 196, 1000])
@pytest.mark.parametrize(
    ("h", "p", "g", "n"), [(24, 64, 1, 64), (6, 64, 2, 128), (3, 20, 3, 7), (4, 130, 1, 256)]
)
def test_equals_float64(dtype, l, h, p, g, n):
    inputs = make_inputs(2, l, h, p, g, n, dtype=dtype, device="cuda")
    # The float64 side is PyTorch, itself held to the loop by the CPU tests.
    exact = outputs_and_gradients(ssd_and_states, to_double(inputs))
    actual = outputs_and_gradients(ssd_and_states, inputs)
    log_decay = largest_log_decay(inputs)
    assert_results_close(actual, exact, torch.finfo(dtype).eps / 2, log_decay)
    again = outputs_and_gradients(ssd_and_states, inputs)
    assert all(torch.equal(actual[name], again[name]) for name in actual)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_decay_stays_finite(dtype):
    inputs = make_inputs(1, 500, 4, 64, 1, 64, dtype=dtype, device="cuda")
    inputs["A"] = torch.full((4,), -1000.0, device="cuda", requires_grad=True)
    actual = outputs_and_gradients(ssd_and_states, inputs)
    assert all(t.isfinite().all() for t in actual.values())


def test_opcheck_on_gpu():
    inputs = make_inputs(2, 50, 4, 40, 2, 9, device="cuda")
    torch.library.opcheck(
        torch.ops.visionssm.ssd.default, (*inputs.values(), None, True, [0.01, 0.5])
    )


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_runs_on_the_tensors_device():
    inputs = make_inputs(1, 100, 4, 8, 1, 5, device="cuda:1")
    assert torch.cuda.current_device() == 0
    exact = outputs_and_gradients(ssd_and_states, to_double(inputs))
    actual = outputs_and_gradients(ssd_and_states, inputs)
    assert_results_close(actual, exact, log_decay=largest_log_decay(inputs))
