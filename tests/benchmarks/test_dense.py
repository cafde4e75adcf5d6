"""Detectors and segmentors in the benchmarks, small."""

from __future__ import annotations

import dataclasses

import pytest
import torch

pytest.importorskip("mmdet", reason="needs the openmmlab extra")
pytest.importorskip("mmseg", reason="needs the openmmlab extra")

from mmengine.logging import MMLogger

from benchmarks import dense, registry
from benchmarks.dense import DenseProblem, dense_tasks, swin
from benchmarks.measure import Limits, Record, Timing, measure
from benchmarks.registry import EAGER, MMDET_SWIN, SWIN, DenseCase
from benchmarks.run import run_task, tasks_of

from .cases import CPU

LIMITS = Limits(1e10, 1e11, "bfloat16", None)
DETECTOR, SEGMENTOR = (  # in float32: many a CPU computes bfloat16 at a tenth of the speed
    DenseCase(label, path, "vmamba_pico", 2, (64, 90), modes=(EAGER,), dtype=torch.float32)
    for label, path in (
        ("tiny detector", "tests/benchmarks/mask_rcnn_few_proposals.py"),
        ("tiny segmentor", "configs/segmentation/upernet_vmamba_pico_demo.py"),
    )
)
each_case = pytest.mark.parametrize("case", [DETECTOR, SEGMENTOR], ids=lambda case: case.label)


@each_case
def test_right_maps_and_gradients_are_timed(case):
    for task in tasks_of(case, CPU, ()):
        record = measure(task, CPU, LIMITS, 1e-3, None)
        assert record.status == "measured", record.why
        assert all(0 < error.value <= error.limit for error in record.errors.values())
        assert record.images_per_s == pytest.approx(2 / record.time_ms.median * 1e3)
        assert record.flop_share > 0


@each_case
def test_wrong_maps_are_not_timed(case, monkeypatch):
    class Wrong(DenseProblem):
        def maps(self, mode):
            return tuple(1.2 * m for m in super().maps(mode))

    monkeypatch.setattr(dense, "DenseProblem", Wrong)
    assert {measure(t, CPU, LIMITS, 1e-3, None).status for t in dense_tasks(case, CPU)} == {"wrong"}


def test_random_weights_find_instances_and_the_log_goes_on():
    logger = MMLogger.get_current_instance()
    level, problem = logger.level, DenseProblem(DETECTOR, CPU)
    samples = problem.prepare_inference(EAGER)()
    assert min(len(sample.pred_instances) for sample in samples) > 50
    assert logger.level == level  # the logger is the process's


@pytest.mark.parametrize("name", [SWIN, MMDET_SWIN])
def test_both_swins_give_the_maps_that_the_heads_expect(name):
    with torch.no_grad():
        maps = swin(name, (60, 90))(torch.randn(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (96, 16, 24), (192, 8, 12), (384, 4, 6), (768, 2, 3),
    ]  # fmt: skip


def test_the_rival_is_the_one_of_the_same_case():
    case = dataclasses.replace(DETECTOR, as_fast_as=SWIN)
    task = next(iter(tasks_of(case, CPU, ())))
    task = dataclasses.replace(task, errors=dict, prepare=lambda: lambda: None, work=dense.Work)
    other, same = (
        Record(
            name, SWIN, EAGER, "inference", "bfloat16", "measured",
            time_ms=Timing(1.0, 1.0, 1.0, 5), images_per_s=speed,
        )
        for name, speed in (("another case", 7.0), (task.case, 5.0))
    )  # fmt: skip
    assert run_task(task, CPU, LIMITS, 1e-3, [other, same]).goal == 5.0
    assert run_task(task, CPU, LIMITS, 1e-3, [other]).goal == 7.0


def test_every_case_of_ours_has_its_rival():
    rivals = {(c.label, c.batch, c.model) for c in registry.DENSE_PEERS}
    assert {(c.label, c.batch, c.as_fast_as) for c in registry.DENSE} <= rivals


@pytest.mark.gpu
@each_case
def test_compiled_backbones_are_right(case):
    cuda, modes = torch.device("cuda"), (EAGER, registry.GRAPHS)
    case = dataclasses.replace(case, modes=modes, dtype=torch.bfloat16)
    for task in tasks_of(case, cuda, ()):
        record = measure(task, cuda, LIMITS, 0.01, None)
        assert record.status == "measured", record.why
        assert record.peak_mib > 0
