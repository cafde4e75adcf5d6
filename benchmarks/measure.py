"""Check a task, time it, and say how far that is from what the device can do.

On CUDA a call is timed by device events after a flush of the L2 cache (`triton.testing.do_bench`).
Where the host may be slower than the kernels, the call is captured into a CUDA graph too, and its
replay timed in the same way: `do_bench_cudagraph` would repeat the call on a warm cache, and cannot
capture a backward pass whose forward ran on another stream. On the CPU the wall clock is read.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .task import Error, Task

WARMUP_SHARE = 0.25  # of the time of a measurement, before it
MIN_RUNS = 5
PROFILED_CALLS = 3
NAME_LENGTH = 90  # of a kernel; of templates it says enough
QUIET = 0.1  # cores at work for other processes; with more, times on the CPU say little
EXPONENTIALS_PER_CLOCK = 16  # of a multiprocessor's special-function units, capability 7.0 and on


class Timing(NamedTuple):
    """Milliseconds of one call: median, 20th and 80th percentile of so many samples."""

    median: float
    low: float
    high: float
    samples: int


class Kernel(NamedTuple):
    """What one call spends in a kernel."""

    name: str
    milliseconds: float  # of all its launches
    launches: float


class Limits(NamedTuple):
    """What the device does at best; the first two are measured in the same run."""

    copy_bytes_per_s: float  # read and written, by a device copy
    matmul_flops_per_s: float  # of a large matrix product in `matmul_dtype`
    matmul_dtype: str
    exponentials_per_s: float | None  # multiprocessors x 16 x the highest clock; CUDA only


@dataclass
class Record:
    """One row of the results, in JSON types once it is `dataclasses.asdict`."""

    case: str
    contender: str
    mode: str
    quantity: str
    dtype: str
    status: str  # "measured", "wrong" (not timed), "failed" (raised) or "skipped"
    why: str = ""
    errors: dict[str, Error] = field(default_factory=dict)
    timer: str = ""  # "device events" or "wall clock"
    time_ms: Timing | None = None
    graph_ms: Timing | None = None  # the same call as a CUDA graph
    images_per_s: float | None = None  # by the faster of the two
    ratio: float | None = None  # of that time to another contender's in the same case
    peak_mib: float | None = None  # allocated at most, above inputs and weights
    kernels: list[Kernel] = field(default_factory=list)  # by their time, longest first; CUDA only
    gigabytes: float | None = None  # that cannot but move
    copy_share: float | None = None  # of the copy bandwidth; shares are by the faster time too
    exponential_share: float | None = None
    flop_share: float | None = None
    other_cores: float | None = None  # at work for other processes meanwhile; CPU only
    goal: float | None = None
    goal_unit: str = ""
    met: bool | None = None  # not judged while other processes run

    @property
    def quiet(self) -> bool:
        """Whether nothing else slowed it down, as far as can be known."""
        return self.other_cores is None or self.other_cores <= QUIET

    @property
    def best_ms(self) -> float:
        """The median of a call or of its CUDA graph, whichever is faster."""
        timings = [t.median for t in (self.time_ms, self.graph_ms) if t is not None]
        return min(timings)


def measure(
    task: Task,
    device: torch.device,
    limits: Limits,
    seconds: float,
    goal: float | None,
    base_ms: float | None = None,
) -> Record:
    """Check the task, and time it if it is right. What it raises becomes part of the record.

    Args:
        task: to be measured.
        device: it runs on.
        limits: of the device.
        seconds: of each measurement.
        goal: images/s, ms, or the ratio to `base_ms`.
        base_ms: time of the contender that the task is relative to.
    """
    record = _record(task, "measured")
    if goal is not None:
        record.goal = goal
        record.goal_unit = "images/s" if task.images else "times" if task.relative_to else "ms"
    try:
        record.errors = task.errors()
        wrong = [name for name, error in record.errors.items() if not error.acceptable]
        if wrong:
            record.status, record.why = "wrong", f"{', '.join(wrong)} off: not timed"
            return record
        _time(task, device, seconds, record)
        _rate(task, limits, record, base_ms)
    except Exception as error:  # a fault of a compiler or of a peer is a result, not the run's end
        record.status, record.why = "failed", f"{type(error).__name__}: {error}"
    return record


def skipped(task: Task) -> Record:
    """The record of a task that cannot run here."""
    return _record(task, "skipped", task.missing)


def _record(task: Task, status: str, why: str = "") -> Record:
    return Record(
        task.case, task.contender, task.mode, task.quantity, dtype_name(task.dtype), status, why
    )


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _time(task: Task, device: torch.device, seconds: float, record: Record) -> None:
    call = task.prepare()
    record.timer = "wall clock" if device.type == "cpu" else "device events"
    if device.type != "cpu":
        record.peak_mib = _peak_memory(call, device) / 2**20
    begin = processor_seconds()
    record.time_ms = time_call(call, device, seconds)
    if device.type == "cpu":
        record.other_cores = other_cores(begin, processor_seconds())
    if device.type == "cuda":
        record.kernels = profile_kernels(call)
    if task.graph and device.type != "cpu":
        del call
        record.graph_ms = time_graph(task.prepare, device, seconds)


def _rate(task: Task, limits: Limits, record: Record, base_ms: float | None) -> None:
    """Set the record's work over the device's limits, and whether the goal is met."""
    work, best_ms = task.work(), record.best_ms

    def share(amount: float | None, limit: float | None) -> float | None:
        return None if amount is None or limit is None else amount / (best_ms / 1e3) / limit

    record.gigabytes = None if work.bytes is None else work.bytes / 1e9
    record.copy_share = share(work.bytes, limits.copy_bytes_per_s)
    record.exponential_share = share(work.exponentials, limits.exponentials_per_s)
    record.flop_share = share(work.flops, limits.matmul_flops_per_s)
    if task.images:
        record.images_per_s = task.images / (best_ms / 1e3)
    if base_ms is not None:
        record.ratio = best_ms / base_ms
    if record.goal is not None and record.quiet:
        if record.images_per_s is not None:
            record.met = record.images_per_s >= record.goal
        elif task.relative_to is None:
            record.met = best_ms <= record.goal
        elif record.ratio is not None:
            record.met = record.ratio <= record.goal


def time_call(call: Callable[[], Any], device: torch.device, seconds: float) -> Timing:
    """Time at least `MIN_RUNS` calls, for about `seconds`, after a warm-up."""
    sample = _wall_clock_times if device.type == "cpu" else _event_times
    times = sample(call, seconds * 1e3)
    fifths = statistics.quantiles(times, n=5, method="inclusive")
    return Timing(statistics.median(times), fifths[0], fifths[-1], len(times))


def time_graph(
    prepare: Callable[[], Callable[[], Any]], device: torch.device, seconds: float
) -> Timing:
    """Time the replay of a CUDA graph of the call that `prepare` returns."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        call = prepare()
        call()  # lazy initialisation must not happen during capture
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            call()
        timing = time_call(graph.replay, device, seconds)
    torch.cuda.current_stream(device).wait_stream(stream)
    return timing


def _wall_clock_times(call: Callable[[], Any], milliseconds: float) -> list[float]:
    call()
    times: list[float] = []
    while len(times) < MIN_RUNS or sum(times) < milliseconds:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _event_times(call: Callable[[], Any], milliseconds: float) -> list[float]:
    from triton.testing import do_bench

    times: list[float] = []
    while len(times) < MIN_RUNS:  # do_bench is content with one
        times += do_bench(
            call, warmup=WARMUP_SHARE * milliseconds, rep=milliseconds, return_mode="all"
        )
        milliseconds = MIN_RUNS * max(times)
    return times


def profile_kernels(call: Callable[[], Any]) -> list[Kernel]:
    """Kernels of a call on CUDA by torch.profiler, averaged over a few calls, longest first."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(PROFILED_CALLS):
            call()
        torch.cuda.synchronize()
    events = [e for e in profiler.key_averages() if e.self_device_time_total > 0]
    calls = PROFILED_CALLS
    kernels = [
        Kernel(e.key[:NAME_LENGTH], e.self_device_time_total / calls / 1e3, e.count / calls)
        for e in events
    ]
    return sorted(kernels, key=lambda kernel: -kernel.milliseconds)


def processor_seconds() -> tuple[float, float, float | None]:
    """Seconds on the clock, of this process's threads and, on Linux, of all processes."""
    everyone, stat = None, Path("/proc/stat")
    if stat.exists():
        user, nice, system, _idle, _wait, *others = map(int, stat.read_text().split()[1:9])
        everyone = (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), time.process_time(), everyone


def other_cores(
    begin: tuple[float, float, float | None], end: tuple[float, float, float | None]
) -> float | None:
    """Cores that other processes kept busy between two readings of `processor_seconds`."""
    if begin[2] is None or end[2] is None:
        return None
    others = (end[2] - begin[2]) - (end[1] - begin[1])
    return max(0.0, others / (end[0] - begin[0]))


def _peak_memory(call: Callable[[], Any], device: torch.device) -> int:
    """Bytes allocated at the peak of one call, above those allocated before it."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def measure_limits(device: torch.device, dtype: torch.dtype, seconds: float) -> Limits:
    """Time a device copy and a square matrix product in `dtype`; look up the exponentials."""
    on_cpu = device.type == "cpu"
    source = torch.ones(2**27 if on_cpu else 2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = time_call(lambda: target.copy_(source), device, seconds)
    size = 1024 if on_cpu else 8192
    square = torch.randn(size, size, device=device, dtype=dtype)
    product = time_call(lambda: square @ square, device, seconds)
    return Limits(
        copy_bytes_per_s=2 * source.nbytes / (copy.median / 1e3),
        matmul_flops_per_s=2 * size**3 / (product.median / 1e3),
        matmul_dtype=dtype_name(dtype),
        exponentials_per_s=None if on_cpu else _exponentials_per_s(device),
    )


def _exponentials_per_s(device: torch.device) -> float:
    from triton.testing import nvsmi

    (megahertz,) = nvsmi(["clocks.max.sm"])
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    return multiprocessors * EXPONENTIALS_PER_CLOCK * megahertz * 1e6
