from __future__ import annotations

import dataclasses
import math
import time

import pytest
import torch

from benchmarks import measure as measuring
from benchmarks import ops
from benchmarks.measure import MIN_RUNS, Limits, measure, measure_limits, time_call
from benchmarks.models import ModelProblem
from benchmarks.ops import ScanProblem
from benchmarks.peers import ChannelFirstScan
from benchmarks.registry import COMPACT, COMPILE, EAGER, MAMBA_SSM, ScanCase
from benchmarks.run import run_task, tasks_of
from benchmarks.task import SUM_ERROR, Error, Task, Work, norm_error
from visionssm.ops import selective_scan_fn

from .cases import BLOCK, CPU, MODEL, SCAN, SSD, SSD_NONCAUSAL

LIMITS = Limits(1e10, 1e11, "float32", 1e9)
SECONDS = 1e-3


def tasks(case) -> list[Task]:
    return list(tasks_of(case, CPU, ()))


@pytest.mark.parametrize(
    "case", [SCAN, SSD, SSD_NONCAUSAL, BLOCK, MODEL], ids=lambda case: case.label
)
def test_right_results_are_timed(case):
    for task in tasks(case):
        record = measure(task, CPU, LIMITS, SECONDS, task.goal)
        assert record.status == "measured", record.why
        assert all(error.acceptable for error in record.errors.values())
        assert 0 < record.time_ms.low <= record.time_ms.median <= record.time_ms.high
        assert record.timer == "wall clock"
        assert record.copy_share or record.flop_share


def test_goals_are_compared_in_their_unit(monkeypatch):
    monkeypatch.setattr(measuring, "other_cores", lambda begin, end: 0.0)
    forward, backward = (
        measure(task, CPU, LIMITS, SECONDS, task.goal) for task in tasks(SCAN)[:2]
    )  # fmt: skip
    assert (forward.met, backward.met) == (True, False)
    assert forward.goal_unit == "ms"
    inference = measure(tasks(MODEL)[0], CPU, LIMITS, SECONDS, 1e-3)
    assert inference.met
    assert inference.goal_unit == "images/s"


def test_goals_are_not_judged_on_a_busy_machine(monkeypatch):
    monkeypatch.setattr(measuring, "other_cores", lambda begin, end: 1.0)
    record = measure(tasks(SCAN)[0], CPU, LIMITS, SECONDS, 1e6)
    assert (record.status, record.met) == ("measured", None)


def test_processors_at_work_for_others():
    assert measuring.other_cores((0.0, 0.0, 10.0), (2.0, 2.0, 13.0)) == 0.5
    assert measuring.other_cores((0.0, 0.0, 10.0), (2.0, 4.0, 13.0)) == 0.0
    assert measuring.other_cores((0.0, 0.0, None), (2.0, 2.0, None)) is None


def test_work_of_a_scan():
    forward, backward = (task.work() for task in tasks(SCAN)[:2])
    b, k, d, l, n = 2, 4, 20, 25, 3
    inputs = b * l * d + b * k * l * d + k * d * n + 2 * b * k * l * n + 2 * k * d
    routes, y = k * l, b * k * l * d
    assert forward.bytes == 4 * (inputs + routes + y)
    assert backward.bytes == 4 * (2 * inputs + routes + y)
    assert forward.exponentials == backward.exponentials == y * (n + 1)


@pytest.mark.parametrize("mistake", [1.01, math.nan])
@pytest.mark.parametrize("contender", ["visionssm", "visionssm, routes summed"])
def test_a_wrong_scan_is_not_timed(monkeypatch, contender, mistake):
    right = ops.selective_scan

    def wrong(*args, implementation="auto", **kwargs):
        y = right(*args, implementation=implementation, **kwargs)
        return y if implementation == "torch" else y * mistake  # the truth stays

    monkeypatch.setattr(ops, "selective_scan", wrong)
    for task in tasks(SCAN):
        if task.contender == contender:
            record = measure(task, CPU, LIMITS, SECONDS, task.goal)
            assert record.status == "wrong"
            assert record.time_ms is None
            assert record.met is None


def test_models_with_batch_normalisation_are_held_to_what_rounding_makes_of_them():
    case = dataclasses.replace(MODEL, model="test_resnet", kwargs={}, batch=4, dtype=torch.bfloat16)
    problem = ModelProblem(case, CPU)
    before = problem.prepare_inference(EAGER)()
    (error,) = problem.training_errors(EAGER).values()
    assert error.acceptable
    assert torch.equal(problem.prepare_inference(EAGER)(), before)  # statistics stay
    problem.labels = problem.labels.flip(0)  # gradients of another loss than the true ones
    (error,) = problem.training_errors(EAGER).values()
    assert not error.acceptable


def test_a_memory_budget_keeps_fewer_activations_for_the_same_gradients():
    problem = ModelProblem(dataclasses.replace(MODEL, modes=(COMPILE, COMPACT)), CPU)
    # Inductor's division of labour between the passes, without its code.
    problem.compiled = torch.compile(problem.model, backend="aot_eager_decomp_partition")
    weights = {weight.data_ptr() for weight in problem.model.parameters()}
    kept, gradients = {}, {}
    for mode in (COMPILE, COMPACT):
        problem.prepare_training(mode)
        compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        step = problem.prepare_training(mode)
        step()
        if mode == COMPACT:  # was compiled by the first preparation
            assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled > 0

        def keep(tensor, mode=mode):
            if tensor.data_ptr() not in weights:
                kept[mode] = kept.get(mode, 0) + tensor.nbytes
            return tensor

        problem.model.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            step()
        gradients[mode] = [parameter.grad.clone() for parameter in problem.model.parameters()]
    assert kept[COMPACT] < 0.8 * kept[COMPILE]
    assert norm_error(gradients[COMPACT], gradients[COMPILE]) < SUM_ERROR
    torch.compiler.reset()


def test_what_a_contender_raises_is_recorded():
    def broken():
        raise RuntimeError("no such kernel")

    task = Task("case", "x", "eager", "fwd", torch.float32, lambda: broken, dict, Work)
    record = measure(task, CPU, LIMITS, SECONDS, None)
    assert (record.status, record.why) == ("failed", "RuntimeError: no such kernel")


@pytest.mark.parametrize("routes", [1, 4])
def test_channel_first_peers_solve_the_same_problem(routes):
    """Our drop-in has mamba_ssm's signature and layout."""
    case = ScanCase("case", 2, routes, 6, 16, 3, dtype=torch.float32)
    scan = ChannelFirstScan(ScanProblem(case, CPU), selective_scan_fn)
    errors = ops._forward_errors(scan.problem, scan) | ops._backward_errors(scan.problem, scan)
    assert len(errors) == 8
    assert all(error.acceptable for error in errors.values()), errors


@pytest.mark.parametrize("case", [SCAN, SSD], ids=lambda case: case.label)
def test_what_is_not_installed_is_skipped(case, monkeypatch):
    monkeypatch.setattr(ops.peers, "mamba_ssm_installed", lambda: False)
    task = next(t for t in tasks_of(case, CPU, [MAMBA_SSM]) if t.contender == MAMBA_SSM)
    record = run_task(task, CPU, LIMITS, SECONDS, [])
    assert (record.status, record.why) == ("skipped", "the package is not installed")


def test_the_clock_and_the_limits():
    timing = time_call(lambda: time.sleep(0.002), CPU, 0.01)
    assert 2 <= timing.low <= timing.median <= timing.high
    limits = measure_limits(CPU, torch.float32, SECONDS)
    assert limits.copy_bytes_per_s > 0
    assert limits.matmul_flops_per_s > 0
    assert limits.exponentials_per_s is None


def test_the_first_call_on_the_cpu_is_not_timed():
    calls = []
    assert time_call(lambda: calls.append(1), CPU, 0.0).samples == MIN_RUNS
    assert len(calls) == MIN_RUNS + 1


@pytest.mark.parametrize(
    ("took", "samples"), [(1.0, 100), (30.0, 3 + MIN_RUNS), (1000.0, 1 + MIN_RUNS)]
)
def test_slow_calls_on_a_gpu_are_timed_often_enough(monkeypatch, took, samples):
    def do_bench(call, warmup, rep, return_mode):
        assert return_mode == "all"
        return [took] * max(1, int(rep / took))

    monkeypatch.setattr("triton.testing.do_bench", do_bench)
    timing = time_call(lambda: None, torch.device("cuda"), 0.1)
    assert timing == (took, took, took, samples)


def test_an_error_of_nan_is_not_acceptable():
    assert Error(0.1, 0.2).acceptable
    assert not Error(math.nan, 0.2).acceptable


@pytest.mark.parametrize(
    ("routes", "tokens", "message"), [(3, 16, "routes: expected"), (4, 15, "tokens: expected")]
)
def test_impossible_scans_are_refused(routes, tokens, message):
    with pytest.raises(ValueError, match=message):
        ScanProblem(ScanCase("case", 1, routes, 4, tokens, 1), CPU)


@pytest.mark.gpu
@pytest.mark.parametrize("case", [SCAN, SSD, SSD_NONCAUSAL, BLOCK], ids=lambda case: case.label)
def test_cuda_calls_are_timed_as_graphs_too(case):
    cuda = torch.device("cuda")
    for task in tasks_of(dataclasses.replace(case, dtype=torch.bfloat16), cuda, ()):
        record = measure(task, cuda, LIMITS, 0.01, None)
        assert record.status == "measured", record.why
        assert record.timer == "device events"
        assert record.graph_ms.median > 0
        assert record.peak_mib > 0
        times = [kernel.milliseconds for kernel in record.kernels]
        assert 0 < sum(times) < 2 * record.time_ms.median
        assert times == sorted(times, reverse=True)


@pytest.mark.gpu
def test_limits_of_a_gpu():
    limits = measure_limits(torch.device("cuda"), torch.bfloat16, 0.01)
    assert all(limit > 1e11 for limit in (limits.copy_bytes_per_s, limits.exponentials_per_s))
