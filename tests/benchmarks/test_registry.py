from __future__ import annotations

import timm

from benchmarks import registry
from benchmarks.registry import ModelCase
from benchmarks.run import tasks_of

from .cases import CPU

# batch, routes, channels, tokens, states: forward and backward goal in ms
SCANS = {
    (64, 4, 96, 3136, 1): (0.14, 0.30),
    (64, 4, 192, 784, 1): (0.075, 0.16),
    (64, 4, 384, 196, 1): (0.045, 0.09),
    (64, 4, 192, 3136, 1): (0.28, 0.60),
    (32, 4, 192, 3136, 16): (0.9, 2.5),
    (128, 1, 384, 197, 16): (0.12, 0.30),
    (128, 1, 768, 197, 16): (0.24, 0.60),
    (8, 1, 384, 6085, 16): (0.17, 0.50),
    (1, 4, 96, 16384, 1): (0.02, 0.05),
    (1, 1, 384, 16384, 16): (0.06, 0.18),
}
# dim, side, batch, states: forward and forward + backward goal in ms
BLOCKS = {
    (96, 56, 64, 1): (0.60, 2.0),
    (192, 28, 64, 1): (0.35, 1.2),
    (384, 14, 64, 1): (0.25, 1.0),
    (96, 56, 32, 16): (1.5, 5.0),
}
# batch, size: inference and training goal in images/s, in the order of the table
MODELS = [
    (128, 224, 12000, 4300),
    (128, 224, 8000, 3000),
    (64, 224, 5500, 1900),
    (4, 768, 950, 300),
    (1, 224, 500, None),
    (128, 224, 20000, 5000),
    (128, 224, 11000, 2800),
    (4, 1248, 1100, 250),
    (128, 224, 9000, 3000),
    (256, 224, 90000, 15000),
    (256, 256, 35000, 8000),
]


def test_every_scan_has_its_goals():
    found = {
        (c.batch, c.routes, c.channels, c.tokens, c.states): (c.goals["fwd"], c.goals["bwd"])
        for c in registry.OPS
        if isinstance(c, registry.ScanCase)
    }
    assert found == SCANS


def test_every_block_has_its_goals():
    found = {
        (c.dim, c.side, c.batch, c.kwargs["d_state"]): (c.goals["fwd"], c.goals["fwd+bwd"])
        for c in registry.BLOCKS
        if c.goals
    }
    assert found == BLOCKS


def test_every_model_has_its_goals():
    found = [
        (c.batch, c.size, c.goals["inference"], c.goals.get("training"))
        for c in registry.MODELS
        if c.goals
    ]
    assert found == MODELS


def test_peers_are_models_of_timm():
    peers = [case for cases in registry.PEERS.values() for case in cases]
    assert all(timm.is_model(c.model) or c.model == registry.MMDET_SWIN for c in peers)
    assert len(registry.MODEL_PEERS) == 8
    rivals = {c.as_fast_as for c in registry.CPU if isinstance(c, ModelCase)}
    assert rivals <= {case.model for case in registry.CPU_PEERS}


def test_every_goal_reaches_a_task_and_labels_are_unique():
    for suite, cases in registry.SUITES.items():
        tasks = [
            task
            for case in (*registry.PEERS.get(suite, ()), *cases)
            for task in tasks_of(case, CPU, registry.peer_names())
        ]
        assert len({task.label for task in tasks}) == len(tasks)
        for case in cases:
            rows = [task for task in tasks_of(case, CPU, ()) if task.goal is not None]
            assert {task.quantity: task.goal for task in rows} == dict(getattr(case, "goals", {}))
