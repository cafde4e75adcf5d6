"""Scans are compared with raster order at equal work."""

from __future__ import annotations

import pytest
import torch

from benchmarks import measure as measuring
from benchmarks import registry, report
from benchmarks.measure import Limits, Record
from benchmarks.registry import RASTER_ORDER, RouteCase
from benchmarks.run import run_task, tasks_of
from benchmarks.scans import raster_routes, route_problem
from visionssm.scans import get_scan, list_scans

from .cases import CPU

LIMITS = Limits(1e10, 1e11, "float32", 1e9)
GOALS = {"fwd": 1e6, "bwd": 1e-6, "fwd+bwd": 1e-6}
PADDED = RouteCase(
    "padded", 2, 5, 20, 4, 36, True, ("window(size=3)", "atrous_window(size=3, rate=1)"), GOALS,
    torch.float32,
)  # fmt: skip
SHARED = RouteCase("shared", 2, 5, 20, 4, 9, False, ("atrous",), GOALS, torch.float32)
WHOLE = RouteCase("whole", 2, 4, 20, 4, 16, True, ("hilbert",), GOALS, torch.float32)


@pytest.mark.parametrize("case", [PADDED, SHARED, WHOLE], ids=lambda case: case.label)
def test_scans_are_timed_against_raster_order(case, monkeypatch):
    monkeypatch.setattr(measuring, "other_cores", lambda begin, end: 0.0)
    records: list[Record] = []
    for task in tasks_of(case, CPU, ()):
        records.append(run_task(task, CPU, LIMITS, 1e-3, records))
        assert records[-1].status == "measured", records[-1].why
    half = len(records) // 2
    for label, rows in ((case.label, records[:half]), (f"SS2D, {case.label}", records[half:])):
        assert {r.case for r in rows} == {label}
        assert [r.contender for r in rows[::2]] == [RASTER_ORDER, *case.scans]
        for record in rows[:2]:
            assert (record.ratio, record.goal, record.met) == (None, None, None)
        for i, record in enumerate(rows[2:]):
            assert record.ratio == record.best_ms / rows[i % 2].best_ms
            assert (record.goal_unit, record.met) == ("times", record.quantity == "fwd")
    assert f"{records[2].ratio:.3f}" in report.table(records)
    assert report.to_png(report.Results("scans", {"device": "x"}, LIMITS, records))


@pytest.mark.parametrize("case", [PADDED, SHARED, WHOLE], ids=lambda case: case.label)
def test_raster_order_has_the_steps_of_the_scans(case):
    base = raster_routes(case, CPU)
    tokens = torch.arange(case.side**2, dtype=torch.int32)
    for scan in case.scans:
        routes = route_problem(case, scan, CPU).routes
        assert base.shape == routes.shape == (case.routes, case.steps)
        assert (base >= 0).sum() == (routes >= 0).sum()
    for visited in base if case.covers else [base]:
        assert torch.equal(visited[visited >= 0], tokens)


def test_every_scan_is_measured_at_three_sizes():
    found = [(case.side, scan) for case in registry.SCANS for scan in case.scans]
    assert sorted(found) == sorted((s, scan) for s in (14, 56, 128) for scan in list_scans())
    for case in registry.SCANS:
        for scan in map(get_scan, case.scans):
            table = scan.function((case.side, case.side), device="meta")
            assert table.shape == (case.routes, case.steps)
            assert scan.covers == case.covers


@pytest.mark.gpu
def test_scans_on_a_gpu():
    cuda = torch.device("cuda")
    records: list[Record] = []
    for task in tasks_of(PADDED, cuda, ()):
        records.append(run_task(task, cuda, LIMITS, 0.01, records))
        assert records[-1].status == "measured", records[-1].why
    assert all(record.ratio > 0 for record in records if record.contender != RASTER_ORDER)
