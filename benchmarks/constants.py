"""The selective scan with other constants in its launches: what else was tried for each row.

    python -m benchmarks.constants
    python -m benchmarks.constants --filter 3136 --seconds 0.2

Every row of the suite `ops` that is a selective scan, and of the suite `scans` raster order and
`ORDERS`, as CUDA graphs, with each set of `ATTEMPTS` in place of the constants of
`visionssm.ops.selective_scan.triton_impl`. Results are checked as the suites check them; what is
off, or fails, is not timed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from visionssm._files import write_atomic

from . import environment, report
from .measure import time_call, time_graph
from .ops import scan_tasks
from .registry import OPS, RASTER_ORDER, SCANS, RouteCase, ScanCase
from .run import RESULTS
from .scans import route_tasks
from .task import Task

triton_impl = importlib.import_module("visionssm.ops.selective_scan.triton_impl")
SECONDS = 0.1
ORDERS = ("cross_scan", "zigzag", "hilbert", "multi_head")  # far jumps, near ones, narrow routes
UNLIMITED = 10**9


@dataclass(frozen=True)
class Attempt:
    """Constants by their names, and which scans they concern: of one state or of several."""

    name: str
    constants: Mapping[str, int]
    one: bool = True
    several: bool = True


ATTEMPTS = (
    Attempt("as it is", {}),
    Attempt("no narrow tiles forward", {"NARROW_PROGRAMS_PER_SM": 0}, several=False),
    Attempt(
        "narrow tiles up to 16 programs a multiprocessor",
        {"NARROW_PROGRAMS_PER_SM": 16},
        several=False,
    ),
    Attempt("narrow tiles everywhere", {"NARROW_PROGRAMS_PER_SM": UNLIMITED}, several=False),
    Attempt(
        "wide tiles forward",
        {"NARROW_PROGRAMS_PER_SM": 0, "WIDE_PROGRAMS_PER_SM": 0},
        several=False,
    ),
    Attempt("no wide tiles forward", {"WIDE_COLUMNS": UNLIMITED}, several=False),
    Attempt("rows always loaded early, backward", {"LIMITED_PROGRAMS_PER_SM": 0}, several=False),
    Attempt(
        "168 registers and no early rows, backward, beyond one wave",
        {"LIMITED_PROGRAMS_PER_SM": UNLIMITED},
        several=False,
    ),
    Attempt("no limit on registers", {"RESIDENT_PROGRAMS_PER_SM": UNLIMITED}, one=False),
    Attempt("128 registers", {"RESIDENT_PROGRAMS_PER_SM": 0, "REGISTERS": 128}, one=False),
    Attempt("16 channels a tile forward", {"STATE_VALUES": 256}, one=False),
    Attempt("no segments", {"PROGRAMS_PER_SM": 0}),
    Attempt(
        "half as many segments",
        {"SLOTS": 8, "WIDE_SLOTS": 6, "STATES_SLOTS": 12, "BACKWARD_STATES_SLOTS": 4},
    ),
    Attempt(
        "half as many segments again",
        {"SLOTS": 24, "WIDE_SLOTS": 18, "STATES_SLOTS": 36, "BACKWARD_STATES_SLOTS": 12},
    ),
    Attempt("segments from 64 steps on", {"MIN_SEGMENT": 64}),
    Attempt("segments from 128 steps on", {"MIN_STATES_SEGMENT": 128}),
    Attempt("segments up to 12 programs a multiprocessor", {"PROGRAMS_PER_SM": 12}),
    Attempt("no states saved for the backward pass", {"MAX_SAVED_STATE_BYTES": 0}, one=False),
    Attempt(
        "states saved in float32",
        {"EXACT_STATE_SIZE": 64, "MAX_SAVED_STATE_BYTES": 256},
        one=False,
    ),
)


@contextmanager
def constants(values: Mapping[str, int]) -> Iterator[None]:
    """Replace constants of the implementation for a while."""
    before = {name: getattr(triton_impl, name) for name in values}
    try:
        for name, value in values.items():
            setattr(triton_impl, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(triton_impl, name, value)


def tasks_of(case: ScanCase | RouteCase, device: torch.device) -> list[Task]:
    """What is timed of a case: ours without the sum over routes; of the orders, some."""
    if isinstance(case, ScanCase):
        tasks, contenders = scan_tasks(case, device, mamba_ssm=False), ("visionssm",)
    else:
        tasks, contenders = route_tasks(case, device), (RASTER_ORDER, *ORDERS)
    return [task for task in tasks if task.contender in contenders]


def milliseconds(task: Task, device: torch.device, seconds: float) -> float | str:
    """Median of the task, as a CUDA graph where there is one, or why there is no time."""
    try:
        wrong = [name for name, error in task.errors().items() if not error.acceptable]
        if wrong:
            return f"off: {', '.join(wrong)}"
        if device.type == "cpu":
            return time_call(task.prepare(), device, seconds).median
        return time_graph(task.prepare, device, seconds).median
    except Exception as error:  # registers that do not suffice are a result as well
        return f"{type(error).__name__}: {error}"[:80]


def measure(
    cases: Sequence[ScanCase | RouteCase],
    attempts: Sequence[Attempt],
    device: torch.device,
    seconds: float,
    out: Path,
    stem: str,
) -> dict[str, Any]:
    """Time every attempt on every case that it concerns; results are written after each case.

    Returns:
        What the JSON file holds: a row a case and direction, with milliseconds by attempt.
    """
    rows: list[dict[str, Any]] = []
    facts = environment.describe(device)
    results = {
        "environment": facts,
        "attempts": {a.name: dict(a.constants) for a in attempts},
        "rows": rows,
    }
    for case in cases:
        for task in tasks_of(case, device):
            found: dict[str, float | str] = {}
            for attempt in attempts:
                several = isinstance(case, ScanCase) and case.states > 1
                if attempt.several if several else attempt.one:
                    with constants(attempt.constants):
                        found[attempt.name] = milliseconds(task, device, seconds)
            row = {"case": case.label, "contender": task.contender, "what": task.quantity}
            goal = None if task.relative_to else task.goal
            rows.append(row | {"goal": goal, "ms": found})
            print(json.dumps(rows[-1]), flush=True)
        write_atomic(out / f"{stem}.json", (json.dumps(results, indent=1) + "\n").encode())
        write_atomic(out / f"{stem}.md", to_markdown(results).encode())
    return results


def to_markdown(results: dict[str, Any]) -> str:
    """Facts, the attempts' constants, and a table with a column an attempt."""
    attempts = results["attempts"]
    titles = ["case", "contender", "what", "goal", *attempts]
    lines = [f"| {' | '.join(titles)} |", "| --- | --- | --- |" + " ---: |" * (len(titles) - 3)]
    for row in results["rows"]:
        times = [row["ms"].get(name, "") for name in attempts]
        cells = [f"{t:.3g}" if isinstance(t, float) else t for t in times]
        goal = "" if row["goal"] is None else f"{row['goal']:g}"
        first = [row["case"], row["contender"], row["what"], goal]
        lines.append(f"| {' | '.join([*first, *cells])} |")
    listed = "\n".join(f"- {name}: {fact}" for name, fact in results["environment"].items())
    meaning = "\n".join(
        f"- {name}: {', '.join(f'{k} = {v}' for k, v in values.items()) or 'no change'}"
        for name, values in attempts.items()
    )
    title = "# Selective scan: other constants"
    note = (
        "Milliseconds as CUDA graphs; cases are (batch, routes, channels, tokens, states), or the "
        "sides of a map and its routes."
    )
    return "\n\n".join([title, listed, meaning, note, "\n".join(lines)]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.constants", description=__doc__.splitlines()[0]
    )
    option = parser.add_argument
    option("--filter", default="", help="text in the label of a case")
    option("--seconds", type=float, default=SECONDS, help="of each measurement")
    option("--out", type=Path, help="folder of the results; default: benchmarks/results/DEVICE")
    args = parser.parse_args(argv)
    cases: list[ScanCase | RouteCase] = [
        *(case for case in OPS if isinstance(case, ScanCase)),
        *(case for case in SCANS if {*ORDERS} & {*case.scans}),
    ]
    cases = [case for case in cases if args.filter in case.label]
    if not cases:
        parser.error(f"--filter: expected text of a case, got {args.filter!r}")
    if not torch.cuda.is_available():
        parser.error("expected a CUDA device, found none")
    device = torch.device("cuda")
    out = args.out or RESULTS / environment.slug(environment.device_name(device))
    stem = report.stem("constants", {"filter": args.filter}, {"filter": ""})
    measure(cases, ATTEMPTS, device, args.seconds, out, stem)
    return 0


if __name__ == "__main__":
    sys.exit(main())
