"""The rows of SSD: kernels stand beside the compiled PyTorch implementation."""

from __future__ import annotations

import dataclasses

from benchmarks.registry import BOTH, PYTORCH
from benchmarks.ssd import ssd_tasks

from .cases import CPU, SSD, SSD_NONCAUSAL


def test_causal_rows_have_the_compiled_pytorch_implementation_beside_them():
    for case, contenders in ((SSD, {"visionssm", PYTORCH}), (SSD_NONCAUSAL, {"visionssm"})):
        case = dataclasses.replace(case, modes=BOTH, goals={"fwd": 1.0})
        tasks = list(ssd_tasks(case, CPU, mamba_ssm=False))
        assert {task.contender for task in tasks} == contenders
        theirs = [task for task in tasks if task.contender == PYTORCH]
        assert {task.mode for task in theirs} <= {"compile"}
        assert all(task.goal is None for task in theirs)
