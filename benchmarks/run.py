"""Measure suites: `python -m benchmarks.run --suite ops blocks`.

Exit status: 0 if every row that ran was right, 1 if one was wrong or failed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch

from . import environment, registry, report
from .blocks import block_tasks
from .dense import dense_tasks
from .measure import Limits, Record, measure, measure_limits, skipped
from .models import model_tasks
from .ops import scan_tasks
from .pointcloud import serialization_tasks
from .registry import (
    MAMBA_SSM,
    BlockCase,
    Case,
    DenseCase,
    RouteCase,
    ScanCase,
    SerializationCase,
    SSDCase,
)
from .scans import mixer_tasks, route_tasks
from .ssd import ssd_tasks
from .task import Task

RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    peers = registry.peer_names()
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__.partition("\n")[0])
    option = parser.add_argument
    option("--suite", nargs="+", required=True, help=f"some of {', '.join(registry.SUITES)}")
    option(
        "--compare",
        nargs="*",
        metavar="PEER",
        default=peers,
        help=f"peers to measure in the same run; default: {', '.join(peers)}",
    )
    option(
        "--filter",
        nargs="+",
        metavar="TEXT",
        default=[""],
        help="rows with one of these texts in their 'case | contender | mode | quantity'",
    )
    option("--seconds", type=float, default=0.5, help="of each measurement; default: %(default)s")
    option("--out", type=Path, help="folder of the results; default: benchmarks/results/DEVICE")
    args = parser.parse_args(argv)
    try:
        check_arguments(args.suite, args.compare, args.filter, args.seconds)
    except ValueError as error:
        parser.error(str(error))
    records: list[Record] = []
    for suite in args.suite:
        if cases_of(suite, args.compare, args.filter):
            records += run_suite(suite, args.compare, args.filter, args.seconds, args.out)
    return int(any(record.status in ("wrong", "failed") for record in records))


def check_arguments(
    suites: Sequence[str], compare: Sequence[str], filter: Sequence[str], seconds: float
) -> None:
    """Raise ValueError, naming the argument, unless these suites can be measured here."""
    for suite in suites:
        if suite not in registry.SUITES:
            raise ValueError(f"suite: expected one of {list(registry.SUITES)}, got {suite!r}")
        if suite != "cpu" and not torch.cuda.is_available():
            raise ValueError(f"suite: {suite!r} needs a CUDA device, got none; 'cpu' runs here")
    for name in compare:
        if name not in registry.peer_names():
            raise ValueError(f"compare: expected some of {registry.peer_names()}, got {name!r}")
    if not any(cases_of(suite, compare, filter) for suite in suites):
        raise ValueError(f"filter: expected text of a row of {list(suites)}, got {list(filter)}")
    if not seconds > 0:
        raise ValueError(f"seconds: expected a positive number, got {seconds}")


def cases_of(suite: str, compare: Sequence[str], filter: Sequence[str]) -> list[Case]:
    """Cases with a row that the filter leaves: the peers' first, as they may set a goal."""
    peers = [case for case in registry.PEERS.get(suite, ()) if case.model in compare]
    return [
        case
        for case in (*peers, *registry.SUITES[suite])
        if any(passes(task, filter) for task in tasks_of(case, torch.device("cpu"), compare))
    ]


def passes(task: Task, filter: Sequence[str]) -> bool:
    """Whether the label of a row has one of the texts in it."""
    return any(text in task.label for text in filter)


def run_suite(
    suite: str,
    compare: Sequence[str],
    filter: Sequence[str] = ("",),
    seconds: float = 0.5,
    out: Path | None = None,
) -> list[Record]:
    """Measure one suite, print its rows as they come, and write the results after each case.

    Args:
        suite: a key of `registry.SUITES`.
        compare: names of peers, see `registry.peer_names`; the files are named after them unless
            they are all.
        filter: only rows whose label contains one of these texts; the files are named after them.
        seconds: of each measurement.
        out: folder of the results; None is benchmarks/results/ and the device's name.

    Raises:
        ValueError: an argument is out of its range, or the filter leaves nothing.
    """
    check_arguments([suite], compare, filter, seconds)
    device = torch.device("cpu" if suite == "cpu" else "cuda")
    cases = cases_of(suite, compare, filter)
    return run_cases(suite, cases, device, compare, filter, seconds, out)


def run_cases(
    suite: str,
    cases: Sequence[Case],
    device: torch.device,
    compare: Sequence[str],
    filter: Sequence[str],
    seconds: float,
    out: Path | None,
) -> list[Record]:
    """`run_suite` on cases and a device of the caller's choice."""
    folder = out or RESULTS / environment.slug(environment.device_name(device))
    peers = {"compare": sorted(compare) or "none"}
    stem = report.stem(" ".join([suite, *filter]), peers, {"compare": registry.peer_names()})
    facts = environment.describe(device)
    limits = measure_limits(device, cases[0].dtype, seconds)
    records: list[Record] = []
    for case in cases:
        for task in tasks_of(case, device, compare):
            if passes(task, filter):
                records.append(run_task(task, device, limits, seconds, records))
                print(report.line(records[-1]), flush=True)
        torch.compiler.reset()
        # After every case: a run that is cut short leaves what it has.
        report.write(report.Results(suite, facts, limits, records), folder, stem)
    print(f"\n{report.table(records)}\n\n{folder / stem}.json, .md, .png")
    return records


def tasks_of(case: Case, device: torch.device, compare: Sequence[str]) -> Iterator[Task]:
    """What is to be measured of a case."""
    if isinstance(case, ScanCase):
        return scan_tasks(case, device, MAMBA_SSM in compare)
    if isinstance(case, SSDCase):
        return ssd_tasks(case, device, MAMBA_SSM in compare)
    if isinstance(case, SerializationCase):
        return serialization_tasks(case, device)
    if isinstance(case, RouteCase):
        return chain(route_tasks(case, device), mixer_tasks(case, device))
    if isinstance(case, BlockCase):
        return block_tasks(case, device)
    if isinstance(case, DenseCase):
        return dense_tasks(case, device)
    return model_tasks(case, device)


def run_task(
    task: Task, device: torch.device, limits: Limits, seconds: float, earlier: Sequence[Record]
) -> Record:
    """Measure a task, or say why it is skipped; a peer that sets its goal is found in `earlier`."""
    if task.missing:
        return skipped(task)
    goal = task.goal
    if task.as_fast_as is not None:
        rival = (task.as_fast_as, task.mode, task.quantity)
        rows = [r for r in earlier if (r.contender, r.mode, r.quantity) == rival]
        rows = [r for r in rows if r.case == task.case] or rows  # some peers are in many cases
        goal = next((r.images_per_s for r in rows if r.quiet), None)
    base = (task.case, task.relative_to, task.mode, task.quantity, "measured")
    rows = [r for r in earlier if (r.case, r.contender, r.mode, r.quantity, r.status) == base]
    base_ms = next((r.best_ms for r in rows if r.quiet), None)
    return measure(task, device, limits, seconds, goal, base_ms)


if __name__ == "__main__":
    sys.exit(main())
