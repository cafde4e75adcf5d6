"""The study of scans, on images made up here."""

from __future__ import annotations

import gzip
import json
import struct

import numpy as np
import pytest
import torch

from benchmarks import scan_study
from benchmarks.scan_study import SCANS, Budget, Split, Training, augment, build, study, train
from visionssm.scans import list_scans

from .cases import CPU

TINY = Budget(epochs=4, batch=20, lr=1e-2, depths=(1,), dims=(16,))
SECONDS = 1e-3


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Noise (class 0) and black images (class 1); training files compressed, test files not."""
    folder = tmp_path_factory.mktemp("fashion-mnist")
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 60), ("t10k", 100)):
        labels = np.arange(count) % 2
        images = rng.integers(0, 256, (count, 12, 12)) * (labels == 0)[:, None, None]
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{prefix}-{name}-ubyte"
            if prefix == "train":
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx(array)))
            else:
                path.write_bytes(idx(array))
    return folder


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(scan_study, "TIMED_SECONDS", SECONDS)


def test_every_training_is_in_the_results(folder, tmp_path):
    scans = ["hilbert", "atrous"]
    results = study(folder, scans, 2, TINY, 2, CPU, tmp_path)
    written = json.loads((tmp_path / "scan-study.json").read_text())
    assert [row["scan"] for row in written["rows"]] == scans
    for row, seen in zip(results["rows"], written["rows"], strict=True):
        assert seen["accuracies"] == {str(s): row["accuracies"][s] for s in row["accuracies"]}
        assert row["accuracies"].keys() == {0, 1}
        assert min(row["accuracies"].values()) > 0.9
        assert row["images_per_s"] > 0
    _, alone = train(Training(folder, "hilbert", 1, TINY, "cpu"))
    assert results["rows"][0]["accuracies"][1] == alone
    markdown = (tmp_path / "scan-study.md").read_text()
    mean = 50 * sum(results["rows"][0]["accuracies"].values())
    assert f"| `hilbert` | 4 | {results['rows'][0]['parameters']:,} | {mean:.2f} |" in markdown
    assert (tmp_path / "scan-study.png").read_bytes().startswith(b"\x89PNG")


def test_scans_of_the_study_have_equal_parameters():
    assert len(SCANS) >= 8
    counts = [sum(p.numel() for p in build(scan, Budget()).parameters()) for scan in SCANS]
    assert len(set(counts[:-1])) == 1
    assert {scan.partition("(")[0] for scan in SCANS} <= set(list_scans())


def test_images_are_shifted_and_mirrored(folder):
    split = Split(folder, "t10k", CPU)
    assert split.images.shape == (100, 16, 16)
    generator = torch.Generator().manual_seed(0)
    marked = torch.zeros(400, 32, 32, dtype=torch.uint8)
    marked[:, 10, 12] = 7
    found = augment(marked, generator).nonzero()
    assert (augment(marked, generator).sum((1, 2)) == 7).all()
    assert set(found[:, 1].tolist()) == set(range(8, 13))
    assert set(found[:, 2].tolist()) == {*range(10, 15), *range(17, 22)}


def test_the_command_line_names_the_scans(folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(scan_study, "study", lambda *args: seen.append(args))
    options = ["--scans", "snake", "--epochs", "3", "--jobs", "4", "--device", "cpu"]
    assert scan_study.main([str(folder), *options, "--out", str(tmp_path)]) == 0
    assert seen == [(folder, ["snake"], 3, Budget(epochs=3), 4, CPU, tmp_path)]


def test_files_of_another_kind_are_refused(folder, tmp_path):
    name = "t10k-labels-idx1-ubyte"
    with pytest.raises(FileNotFoundError, match=name):
        scan_study.read_idx(tmp_path, name)
    data = (folder / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"expected \(100,\) bytes, got 99"):
        scan_study.read_idx(tmp_path, name)
    (tmp_path / name).write_bytes(b"\x00\x00\x0d" + data[3:])
    with pytest.raises(ValueError, match="expected an idx file of bytes"):
        scan_study.read_idx(tmp_path, name)


@pytest.mark.gpu
def test_a_training_on_a_gpu(folder):
    _, accuracy = train(Training(folder, "hilbert", 0, TINY, "cuda"))
    assert accuracy > 0.9
