"""The Triton kernels on a CUDA device: dtypes, odd and long lengths, poisoned outputs."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys

import pytest
import torch

from tests.ops.scan_cases import (
    added_up,
    assert_results_close,
    make_inputs,
    outputs_and_gradients,
    random_gaps,
    random_routes,
    to_double,
)
from visionssm.ops import selective_scan

triton_impl = importlib.import_module("visionssm.ops.selective_scan.triton_impl")
pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def rounds_states(dtype: torch.dtype, n: int) -> bool:
    return dtype == torch.bfloat16 and n > triton_impl.EXACT_STATE_SIZE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [1, 37, 63, 500, 1000, 3136, 16384])
@pytest.mark.parametrize(("k", "d", "n"), [(4, 40, 1), (2, 33, 16), (1, 65, 7)])
def test_equals_float64(dtype, length, k, d, n):
    inputs = make_inputs(2, k, length, d, n, dtype=dtype, device="cuda")
    routes = random_routes(k, length).cuda()
    # The float64 side is chunked PyTorch, itself held to the loop by the CPU tests.
    how = {"routes": routes, "reduce": "sum", "implementation": "torch"}
    exact = outputs_and_gradients(to_double(inputs), **how)
    addends = added_up(to_double(inputs), **how)
    for complete in (False, True):  # with masks for padding steps, and without
        how = {"routes": routes, "reduce": "sum", "complete": complete}
        actual = outputs_and_gradients(inputs, **how)
        assert_results_close(actual, exact, length, addends, rounds_states(dtype, n))
        again = outputs_and_gradients(inputs, **how)
        assert all(torch.equal(actual[name], again[name]) for name in actual)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 3, 16])
@pytest.mark.parametrize("images", [60, 96])
def test_many_programs(dtype, n, images):
    """More than an H200 takes at once: one and a half waves of them, and more than two."""
    inputs = make_inputs(images, 2, 37, 384, n, dtype=dtype, device="cuda")
    exact = outputs_and_gradients(to_double(inputs), implementation="torch")
    addends = added_up(to_double(inputs), implementation="torch")
    actual = outputs_and_gradients(inputs)
    assert_results_close(actual, exact, 37, addends, rounds_states(dtype, n))


@pytest.mark.parametrize("n", [1, 16, 64])
def test_partial_and_per_image_routes(n):
    inputs = make_inputs(3, 2, 300, 48, n, device="cuda")
    for routes in (random_routes(2, 300, steps=150), random_routes(2, 300, batch=3)):
        exact = outputs_and_gradients(
            to_double(inputs), routes=routes.cuda(), implementation="torch"
        )
        actual = outputs_and_gradients(inputs, routes=routes.cuda())
        assert_results_close(actual, exact, 300)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [37, 500, 3136])
@pytest.mark.parametrize(("k", "d", "n"), [(4, 40, 1), (2, 33, 16)])
def test_elapsed_time(dtype, length, k, d, n):
    inputs = make_inputs(2, k, length, d, n, dtype=dtype, device="cuda", elapsed=True)
    kept = random_routes(k, length, steps=1 + length // 2, batch=2).cuda()
    for routes in (None, kept):
        how = {"routes": routes, "implementation": "torch"}
        exact = outputs_and_gradients(to_double(inputs), **how)
        actual = outputs_and_gradients(inputs, routes=routes)
        addends = added_up(to_double(inputs), **how)
        assert_results_close(actual, exact, length, addends, rounds_states(dtype, n))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [37, 500, 3136])
@pytest.mark.parametrize(("k", "d", "n"), [(4, 40, 1), (2, 33, 16)])
def test_gaps(dtype, length, k, d, n):
    inputs = make_inputs(2, k, length, d, n, dtype=dtype, device="cuda")
    kept = random_routes(k, length, steps=1 + length // 2, batch=2).cuda()
    for routes, complete in ((None, False), (random_routes(k, length).cuda(), True), (kept, False)):
        steps = length if routes is None else routes.shape[-1]
        gaps = random_gaps(2, k, steps, device="cuda")
        how = {"routes": routes, "complete": complete, "gaps": gaps}
        exact = outputs_and_gradients(to_double(inputs), **how, implementation="torch")
        actual = outputs_and_gradients(inputs, **how)
        addends = added_up(to_double(inputs), **how, implementation="torch")
        assert_results_close(actual, exact, length, addends, rounds_states(dtype, n))
        again = outputs_and_gradients(inputs, **how)
        assert all(torch.equal(actual[name], again[name]) for name in actual)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [196, 16384])
@pytest.mark.parametrize("n", [1, 16])
@pytest.mark.parametrize("reduce", ["none", "shared", "sum"])
def test_routes_share_slices_of_the_tokens(dtype, length, n, reduce):
    inputs = make_inputs(2, 8, length, 24, n, dtype=dtype, device="cuda", slices=2)
    routes = random_routes(8, length).cuda()
    how = {"routes": routes, "reduce": reduce, "implementation": "torch"}
    exact = outputs_and_gradients(to_double(inputs), **how)
    addends = added_up(to_double(inputs), **how)
    actual = outputs_and_gradients(inputs, routes=routes, reduce=reduce, complete=True)
    assert_results_close(actual, exact, length, addends, rounds_states(dtype, n))


def test_long_sequence_of_one_image():
    inputs = make_inputs(1, 4, 65536, 96, 1, dtype=torch.bfloat16, device="cuda")
    routes = random_routes(4, 65536).cuda()
    how = {"routes": routes, "implementation": "torch"}
    exact = outputs_and_gradients(to_double(inputs), **how)
    actual = outputs_and_gradients(inputs, routes=routes, complete=True)
    assert_results_close(actual, exact, 65536, added_up(to_double(inputs), **how))


def test_index_out_of_range_is_a_padding_step():
    inputs = make_inputs(1, 1, 40, 8, 2, device="cuda")
    routes = torch.arange(40, dtype=torch.int32, device="cuda")[None].clone()
    padded = routes.clone()
    routes[0, 5], padded[0, 5] = 1 << 30, -1
    actual = selective_scan(**inputs, routes=routes)
    assert torch.equal(actual, selective_scan(**inputs, routes=padded))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_runs_on_the_tensors_device():
    inputs = make_inputs(1, 2, 100, 8, 1, device="cuda:1")
    assert torch.cuda.current_device() == 0
    results = outputs_and_gradients(inputs)
    exact = outputs_and_gradients(to_double(inputs), implementation="torch")
    assert_results_close(results, exact, 100)


@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="needs compute-sanitizer")
def test_compute_sanitizer_finds_nothing():
    run = subprocess.run(
        ["compute-sanitizer", "--tool", "memcheck", sys.executable, "-m", "tests.ops.sanitize"],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "ERROR SUMMARY: 0 errors" in run.stdout, run.stdout
