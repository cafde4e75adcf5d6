"""Other constants of the selective scan: in the interpreter, on a tiny case."""

from __future__ import annotations

import pytest
import torch

from benchmarks import constants
from benchmarks.constants import ATTEMPTS, Attempt, triton_impl
from benchmarks.ops import ScanProblem
from benchmarks.registry import SCANS, ScanCase
from benchmarks.task import Error

CPU = torch.device("cpu")


def test_every_attempt_names_constants_that_are_there():
    for attempt in ATTEMPTS:
        assert all(isinstance(getattr(triton_impl, name), int) for name in attempt.constants)
        assert attempt.one or attempt.several


def test_a_case_is_measured_by_the_attempts_that_concern_it(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        constants,
        "milliseconds",
        lambda task, device, seconds: seen.append(triton_impl.LIMITED_PROGRAMS_PER_SM) or 1.5,
    )
    attempts = [Attempt("both", {}), Attempt("few", {"LIMITED_PROGRAMS_PER_SM": 1}, several=False)]
    cases = [ScanCase("one", 1, 1, 2, 4, 1, {"fwd": 1.0}), ScanCase("two", 1, 1, 2, 4, 2)]
    before = triton_impl.LIMITED_PROGRAMS_PER_SM
    constants.measure(cases, attempts, CPU, 0.01, tmp_path, "constants")
    assert seen == [before, 1, before, 1, before, before]
    assert before == triton_impl.LIMITED_PROGRAMS_PER_SM
    lines = (tmp_path / "constants.md").read_text().splitlines()
    assert "- few: LIMITED_PROGRAMS_PER_SM = 1" in lines
    assert "| one | visionssm | fwd | 1 | 1.5 | 1.5 |" in lines
    assert "| two | visionssm | bwd |  | 1.5 |  |" in lines


def test_orders_stand_beside_raster_order():
    case = next(case for case in SCANS if "zigzag" in case.scans)
    contenders = [task.contender for task in constants.tasks_of(case, CPU)]
    assert contenders[:2] == ["raster order"] * 2
    assert {*contenders[2:]} == {"cross_scan", "zigzag", "hilbert"}


def test_what_is_off_or_fails_is_not_timed(monkeypatch):
    case = ScanCase("tiny", 1, 1, 2, 20, 1, dtype=torch.float32)
    task = constants.tasks_of(case, CPU)[0]
    assert isinstance(constants.milliseconds(task, CPU, 0.001), float)
    monkeypatch.setattr(ScanProblem, "error", lambda *_: Error(2.0, 1.0))
    assert constants.milliseconds(task, CPU, 0.001) == "off: y"
    monkeypatch.setattr(ScanProblem, "error", lambda *_: 1 / 0)
    assert constants.milliseconds(task, CPU, 0.001).startswith("ZeroDivisionError")


def test_without_a_device_or_a_case(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        constants.main([])
    with pytest.raises(SystemExit):
        constants.main(["--filter", "no such case"])
