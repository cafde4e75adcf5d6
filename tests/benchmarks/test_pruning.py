"""The pruning benchmark: a tiny run of each command, and what is read off its rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import pruning
from benchmarks.pruning import SpeedCase, keep_for_flops, main, measure_speed, verdicts
from visionssm.analysis.flops import count_flops, meta_model
from visionssm.pruning import prune


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Idx files of a few images."""
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 12), ("t10k", 8)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = b"\0\0\x08\x03" + np.array([count, 28, 28], ">u4").tobytes()
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = np.arange(count, dtype=np.uint8) % 10
        header = b"\0\0\x08\x01" + np.array([count], ">u4").tobytes()
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    monkeypatch.setattr(pruning, "TIMED_SECONDS", 1e-3)
    return tmp_path


def test_quality_from_training_to_table(folder, tmp_path):
    arguments = "--device cpu --epochs 1 --batch 6 --images 12 --embed-dim 16 --depth 4".split()
    out = tmp_path / "out"
    assert main(["quality", str(folder), *arguments, "--keeps", "0.5", "--out", str(out)]) == 0
    results = json.loads((out / "pruning-quality.json").read_text())
    assert results["budget"]["depth"] == 4
    assert [row["way"] for row in results["rows"]] == ["unpruned", *pruning.WAYS]
    full, *pruned = results["rows"]
    assert all(row["flops"] < full["flops"] for row in pruned)
    assert all(0 <= row["tuned_accuracy"] <= 1 for row in results["rows"])
    text = (out / "pruning-quality.md").read_text()
    assert "| merge | 0.5 |" in text
    assert (out / "pruning-quality.png").read_bytes()[:4] == b"\x89PNG"


def test_speed_of_a_small_model(tmp_path, monkeypatch):
    case = SpeedCase("Vim-T", "vim_tiny", 64, 1, 1.0)
    row = measure_speed(case, torch.device("cpu"), seconds=1e-3)
    assert row["pruned_flops"] / row["flops"] <= 0.6
    assert row["times_as_fast"] > 0
    assert 0 < row["removing_share"] < 1
    monkeypatch.setitem(pruning.SPEED_CASES, "cpu", (case,))
    monkeypatch.setattr(pruning, "measure_speed", lambda *_: row)
    assert main(["speed", "--device", "cpu", "--out", str(tmp_path)]) == 0
    assert "| Vim-T 64, batch 1 |" in (tmp_path / "pruning-speed.md").read_text()
    assert (tmp_path / "pruning-speed.png").read_bytes()[:4] == b"\x89PNG"


def test_the_rate_is_the_largest_that_fits():
    case = SpeedCase("Vim-T", "vim_tiny", 224, 1, None)
    rate, model, size = keep_for_flops(case, 0.6), meta_model("vim_tiny"), (3, 224, 224)
    full = count_flops(model, size)
    assert count_flops(prune(model, rate), size) <= 0.6 * full
    assert count_flops(prune(model, rate + 0.01), size) > 0.6 * full


def test_verdicts_are_differences_in_points():
    rows = [
        {"way": way, "keep": keep, "accuracy": value}
        for way, keep, value in [
            ("align", 0.9, 0.91), ("hard", 0.9, 0.90), ("random", 0.9, 0.95),
            ("align", 0.5, 0.50), ("hard", 0.5, 0.25),
        ]
    ]  # fmt: skip
    assert verdicts(rows) == [
        "- align against hard, at once: +1.00 at 0.9, +25.00 at 0.5",
        "- align against random, at once: -4.00 at 0.9",
    ]


def test_an_unknown_case_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["speed", "--device", "cpu", "--filter", "Swin"])
    assert "--filter: expected text of a case, got 'Swin'" in capsys.readouterr().err
