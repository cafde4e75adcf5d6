"""The loops for CPUs: their functions, how they are cut into tasks, and threads."""

from __future__ import annotations

import importlib
import multiprocessing

import numpy as np
import pytest
import torch

from tests.ops.scan_cases import (
    assert_results_close,
    make_inputs,
    outputs_and_gradients,
    random_gaps,
    random_routes,
    to_double,
)
from visionssm.ops import selective_scan

numba = pytest.importorskip("numba", exc_type=ImportError)
numba_impl = importlib.import_module("visionssm.ops.selective_scan.numba_impl")


@numba.njit
def _apply(function, x):
    y = np.empty_like(x)
    for i in range(x.size):
        y[i] = function(x[i])
    return y


def test_exponentials_and_logarithms_are_right_to_a_few_units():
    exponents = np.linspace(-126, 127, 100_003).astype(np.float32)
    exact = np.exp2(exponents.astype(np.float64))
    assert np.abs(_apply(numba_impl._exp2, exponents) / exact - 1).max() < 2.0**-22
    ratios = np.concatenate([np.logspace(-38, 0, 50_000), np.linspace(0.01, 1, 50_000)])
    ratios = ratios.astype(np.float32)
    exact = np.log1p(ratios.astype(np.float64))
    assert np.abs(_apply(numba_impl._log1p, ratios) / exact - 1).max() < 2.0**-21


def test_exponentials_of_special_values():
    x = np.array([0, -0.0, 1, -127, -1e30, -np.inf, 128, 1e30, np.inf, np.nan], dtype=np.float32)
    y = _apply(numba_impl._exp2, x)
    assert y[:-1].tolist() == [1, 1, 2, 0, 0, 0, np.inf, np.inf, np.inf]
    assert np.isnan(y[-1])


def test_code_is_compiled_where_none_can_be_kept(monkeypatch):
    """Numba refuses to cache if neither the package's folder nor the user's can be written."""
    njit = numba.njit

    def njit_in_read_only_folders(**options):
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", njit_in_read_only_folders)
    double = numba_impl._compiled(set())(lambda x: 2 * x)
    assert double(21.0) == 42


@pytest.mark.parametrize(
    ("slices", "reduce"), [(1, "none"), (1, "sum"), (2, "none"), (2, "shared"), (4, "sum")]
)
@pytest.mark.parametrize("b", [1, 3])
def test_tasks_change_nothing(monkeypatch, b, slices, reduce):
    """Blocks of channels, groups of routes and threads: right, and the same bits by any threads."""
    inputs = make_inputs(b, 4, 40, 37, 2, slices=slices)
    how = {"routes": random_routes(4, 40, steps=35), "reduce": reduce}
    exact = outputs_and_gradients(to_double(inputs), implementation="reference", **how)
    monkeypatch.setattr(numba_impl, "CHANNELS", 16)
    monkeypatch.setattr(numba_impl, "THREAD_ELEMENTS", 1)
    results = []
    for count in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        results.append(outputs_and_gradients(inputs, implementation="numba", **how))
        assert_results_close(results[-1], exact, 35)
    for name, t in results[0].items():
        assert torch.equal(t, results[1][name]), name


@pytest.mark.parametrize("time", ["step sizes", "elapsed", "gaps"])
def test_kept_states_are_optional(time):
    """Across segments of STEPS steps; a backward pass that is given none computes them again."""
    inputs = make_inputs(2, 2, 2 * numba_impl.STEPS + 7, 5, 3, elapsed=time == "elapsed")
    gaps = random_gaps(2, 2, 2 * numba_impl.STEPS + 7) if time == "gaps" else None
    doubles = to_double(inputs)
    exact = outputs_and_gradients(doubles, gaps=gaps, implementation="reference")
    kept = outputs_and_gradients(inputs, gaps=gaps, implementation="numba")
    assert_results_close(kept, exact, 2 * numba_impl.STEPS + 7)
    with pytest.MonkeyPatch.context() as patch:
        forward = numba_impl.selective_scan_forward
        patch.setattr(
            numba_impl,
            "selective_scan_forward",
            lambda *args: (*forward(*args)[:2], torch.empty(0)),
        )
        again = outputs_and_gradients(inputs, gaps=gaps, implementation="numba")
    for name, t in kept.items():
        assert torch.equal(t, again[name]), name


def test_no_images():
    inputs = make_inputs(0, 2, 9, 4, 1)
    y = selective_scan(**inputs, implementation="numba")
    assert y.shape == (0, 2, 9, 4)
    assert all(not g.any() for g in torch.autograd.grad(y.sum(), list(inputs.values())))


def _scan_in_threads(queue) -> None:
    torch.set_num_threads(2)
    queue.put(selective_scan(**_forked_inputs(), implementation="numba").sum().item())


def _forked_inputs():
    return {name: t.detach() for name, t in make_inputs(2, 1, 9, 4, 1).items()}


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_threads_start_again_in_a_forked_process(monkeypatch):
    monkeypatch.setattr(numba_impl, "THREAD_ELEMENTS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    expected = selective_scan(**_forked_inputs(), implementation="numba").sum().item()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_scan_in_threads, args=(queue,))
    process.start()
    assert queue.get(timeout=60) == expected
    process.join()


def test_float64_is_refused():
    with pytest.raises(ValueError, match=r"takes float32, .* got torch\.float64 on cpu"):
        selective_scan(**make_inputs(1, 1, 5, 2, 1, dtype=torch.float64), implementation="numba")


def test_other_devices_are_refused():
    u, delta, A, B, C, *_ = (t.detach().to("meta") for t in make_inputs(1, 1, 5, 2, 1).values())
    with pytest.raises(ValueError, match=r"on a CPU, got torch\.float32 on meta"):
        numba_impl.selective_scan_forward(
            u, delta, A.mT, B, C, None, None, None, None, None, True, 1, False, False
        )
