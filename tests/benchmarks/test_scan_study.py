"""The study of scans, on images made up here."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import scan_study
from benchmarks.fashion_mnist import FashionMNIST, accuracy, take_turns
from benchmarks.scan_study import SCANS, Budget, build, images_per_s, start, study
from visionssm.scans import list_scans

from .cases import CPU
from .fashion import write_noise_and_black

TINY = Budget(epochs=3, batch=20, lr=1e-2, depths=(1,), dims=(16,))
SECONDS = 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fashion-mnist")
    write_noise_and_black(folder, side=12, train=60, test=100)
    return folder


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(scan_study, "TIMED_SECONDS", SECONDS)


def test_every_training_is_in_the_results(folder, tmp_path):
    scans = ["hilbert", "atrous"]
    results = study(folder, scans, 2, TINY, 2, CPU, tmp_path)
    budget = "epochs-3-batch-20-lr-0-01-depths-1-dims-16"
    stem = f"scan-study-scans-hilbert-atrous-seeds-2-{budget}"
    written = json.loads((tmp_path / f"{stem}.json").read_text())
    assert [row["scan"] for row in written["rows"]] == scans
    for row, seen in zip(results["rows"], written["rows"], strict=True):
        assert seen["accuracies"] == {str(s): row["accuracies"][s] for s in row["accuracies"]}
        assert row["accuracies"].keys() == {0, 1}
        assert min(row["accuracies"].values()) > 0.9
        assert row["images_per_s"] > 0
    data = FashionMNIST(folder, CPU)
    alone = start("hilbert", 1, data, TINY)
    take_turns([alone])
    assert results["rows"][0]["accuracies"][1] == accuracy(alone.model, data)
    markdown = (tmp_path / f"{stem}.md").read_text()
    mean = 50 * sum(results["rows"][0]["accuracies"].values())
    assert f"| `hilbert` | 4 | {results['rows'][0]['parameters']:,} | {mean:.2f} |" in markdown
    assert (tmp_path / f"{stem}.png").read_bytes().startswith(b"\x89PNG")


def test_scans_of_the_study_have_equal_parameters():
    assert len(SCANS) >= 8
    counts = [sum(p.numel() for p in build(scan, Budget()).parameters()) for scan in SCANS]
    assert len(set(counts[:-1])) == 1
    assert {scan.partition("(")[0] for scan in SCANS} <= set(list_scans())


def test_the_command_line_names_the_scans(folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(scan_study, "study", lambda *args: seen.append(args))
    options = ["--scans", "snake", "--epochs", "3", "--streams", "4", "--device", "cpu"]
    assert scan_study.main([str(folder), *options, "--out", str(tmp_path)]) == 0
    assert seen == [(folder, ["snake"], 3, Budget(epochs=3), 4, CPU, tmp_path)]


def test_no_streams_are_refused_before_anything_is_timed(folder, tmp_path):
    with pytest.raises(ValueError, match="streams: expected at least 1, got 0"):
        study(folder, ["snake"], 1, TINY, 0, CPU, tmp_path)


@pytest.mark.gpu
def test_a_step_is_timed_as_a_graph(folder, monkeypatch):
    trainers = []

    def remember(*arguments):
        trainers.append(start(*arguments))
        return trainers[-1]

    monkeypatch.setattr(scan_study, "start", remember)
    assert images_per_s("hilbert", FashionMNIST(folder, torch.device("cuda")), TINY) > 0
    assert trainers[0].graph is not None
