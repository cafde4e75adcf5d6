"""The pruning benchmark: a tiny run of each command, and what is read off its rows."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import pruning
from benchmarks.pruning import (
    Budget,
    SpeedCase,
    keep_for_flops,
    main,
    measure_speed,
    milliseconds,
    verdicts,
)
from visionssm.analysis.flops import count_flops, meta_model
from visionssm.pruning import prune

from .fashion import write_noise_and_black


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(pruning, "TIMED_SECONDS", 1e-3)
    write_noise_and_black(tmp_path, side=28, train=12, test=8)
    return tmp_path


def test_quality_from_training_to_table(folder, tmp_path):
    arguments = "--device cpu --epochs 1 --batch 6 --images 12 --embed-dim 16 --depth 4".split()
    out = tmp_path / "out"
    assert (
        main(
            [
                "quality",
                str(folder),
                *arguments,
                "--keeps",
                "0.5",
                "--streams",
                "4",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    stem = "pruning-quality-keeps-0-5-epochs-1-batch-6-embed-dim-16-depth-4-images-12"
    results = json.loads((out / f"{stem}.json").read_text())
    assert (results["budget"]["depth"], results["budget"]["images"]) == (4, 12)
    assert [row["way"] for row in results["rows"]] == ["unpruned", *pruning.WAYS]
    full, *pruned = results["rows"]
    assert all(row["flops"] < full["flops"] for row in pruned)
    assert all(0 <= row["tuned_accuracy"] <= 1 for row in results["rows"])
    text = (out / f"{stem}.md").read_text()
    assert "| merge | 0.5 |" in text
    assert (out / f"{stem}.png").read_bytes()[:4] == b"\x89PNG"


def test_no_streams_are_refused_before_anything_is_timed(tmp_path):
    with pytest.raises(ValueError, match="streams: expected at least 1, got 0"):
        pruning.quality(tmp_path, Budget(), [0.5], 0, torch.device("cpu"), tmp_path)


def test_speed_of_a_small_model(tmp_path, monkeypatch):
    case = SpeedCase("Vim-T", "vim_tiny", 64, 1, 1.0)
    monkeypatch.setattr(pruning, "other_cores", lambda begin, end: 0.25)
    row = measure_speed(case, torch.device("cpu"), seconds=1e-3)
    assert row["pruned_flops"] / row["flops"] <= 0.6
    assert row["pruned_images_per_s"] == pytest.approx(1e3 / row["pruned_ms"]["call"])
    ratio = row["ms"]["call"] / row["pruned_ms"]["call"]
    assert row["times_as_fast"] == pytest.approx(ratio)
    assert 0 < row["removing_share"] < 1
    assert row["other_cores"] == 0.25
    monkeypatch.setitem(pruning.SPEED_CASES, "cpu", (case,))
    monkeypatch.setattr(pruning, "measure_speed", lambda *_: row)
    assert main(["speed", "--device", "cpu", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "pruning-speed.md").read_text()
    assert "| ms, unpruned, call | pruned, call | images/s, unpruned |" in text
    assert "| Vim-T 64, batch 1 |" in text
    assert "| 0.25 |" in text
    assert (tmp_path / "pruning-speed.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["speed", "--device", "cpu", "--filter", "T 64", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "pruning-speed-t-64.json").is_file()


def test_the_rate_is_the_largest_that_fits():
    case = SpeedCase("Vim-T", "vim_tiny", 224, 1, None)
    rate, full, pruned = keep_for_flops(case, 0.6)
    model, size = meta_model("vim_tiny"), (3, 224, 224)
    assert full == count_flops(model, size)
    assert pruned == count_flops(prune(model, rate), size) <= 0.6 * full
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


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("way", ["unpruned", *pruning.WAYS])
def test_pruned_models_are_timed_as_graphs(way, compiled):
    device = torch.device("cuda")
    torch.compiler.reset()
    model = pruning.prune_by(pruning.build(Budget(embed_dim=32, depth=4)), way, 0.5)
    model = model.to(device).eval()
    images = torch.randn(10, 1, 32, 32, device=device)
    call = torch.compile(model, fullgraph=True, dynamic=False) if compiled else model
    found = milliseconds(call, [images], device, 0.01)
    assert 0 < found["CUDA graph"] < found["call"]
