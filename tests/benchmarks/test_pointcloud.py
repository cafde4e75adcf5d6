"""Serialization is checked against the CPU, then timed."""

from __future__ import annotations

import pytest
import torch

from benchmarks import pointcloud
from benchmarks.measure import Limits, measure
from benchmarks.registry import SerializationCase
from benchmarks.run import tasks_of
from tests.models.golden import DEVICES

LIMITS = Limits(1e10, 1e11, "float32", 1e9)
CASE = SerializationCase("clouds", 2, 50, ("xyz", "hilbert"), 0.1, {"fwd": 1e6})


@pytest.mark.parametrize("device", DEVICES)
def test_right_routes_are_timed(device):
    device = torch.device(device)
    (task,) = tasks_of(CASE, device, ())
    record = measure(task, device, LIMITS, 1e-3, task.goal)
    assert record.status == "measured", record.why
    assert record.goal_unit == "ms"
    assert record.gigabytes == (4 * 2 * 50 * 3 + 4 * 2 * 2 * 50) / 1e9


def test_wrong_routes_are_not_timed(monkeypatch):
    (task,) = tasks_of(CASE, torch.device("cpu"), ())
    right = pointcloud.serialize_points
    calls = []

    def wrong(*args):
        calls.append(args)
        return right(*args).flip(-1) if len(calls) == 1 else right(*args)

    monkeypatch.setattr(pointcloud, "serialize_points", wrong)
    record = measure(task, torch.device("cpu"), LIMITS, 1e-3, task.goal)
    assert (record.status, record.time_ms) == ("wrong", None)
