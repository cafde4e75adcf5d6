"""Trainings by precision, on images made up here."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks import precision
from benchmarks.precision import Budget, build, largest_difference, main
from tests.models.golden import DEVICES

from .fashion import write_noise_and_black

TINY = Budget(epochs=3, batch=20, lr=1e-2, depths=(1,), dims=(16,), drop_path_rate=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fashion-mnist")
    write_noise_and_black(folder, side=12, train=60, test=100)
    return folder


@pytest.mark.parametrize("device", DEVICES)
def test_losses_agree(folder, tmp_path, device):
    dtypes = ["float32", "bfloat16"] + ["float16"] * (device == "cuda")
    precision.precision(folder, TINY, dtypes, torch.device(device), tmp_path)
    part = "" if device == "cuda" else "dtypes-float32-bfloat16-"
    stem = f"precision-{part}epochs-3-batch-20-lr-0-01-depths-1-dims-16-drop-path-rate-0-0"
    rows = json.loads((tmp_path / f"{stem}.json").read_text())["rows"]
    assert [row["dtype"] for row in rows] == dtypes
    for row in rows:
        assert len(row["losses"]) == TINY.epochs
        assert row["losses"][-1] < row["losses"][0]
        assert row["not_finite"] == 0
        assert 0 <= largest_difference(rows, row) < 2**-8  # what bfloat16 rounds a number by
    assert rows[1]["losses"] != rows[0]["losses"]  # another precision
    assert "| bfloat16 |" in (tmp_path / f"{stem}.md").read_text()
    assert (tmp_path / f"{stem}.png").read_bytes().startswith(b"\x89PNG")


def test_differences_are_the_largest_of_all_epochs():
    exact, other = (
        {"dtype": name, "losses": x} for name, x in (("float32", [2, 1]), ("x", [2, 1.5]))
    )
    assert largest_difference([exact, other], other) == 0.5
    assert largest_difference([exact, other], exact) == 0
    assert math.isnan(largest_difference([other], other))


def test_images_are_enlarged():
    model = build(TINY).eval()
    maps = model.forward_intermediates(torch.zeros(1, 1, 64, 64), intermediates_only=True)
    with torch.no_grad():
        assert torch.equal(
            model(torch.zeros(1, 1, 32, 32)),
            model.forward_head(model.forward_features(torch.zeros(1, 1, 64, 64))),
        )
    assert maps[0].shape[-2:] == (16, 16)


def test_bad_arguments(capsys):
    with pytest.raises(SystemExit):
        main(["folder", "--epochs", "0"])
    assert "--epochs: expected a positive number, got 0" in capsys.readouterr().err
