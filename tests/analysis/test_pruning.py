"""What pruning saves, as reported and drawn, and the tool that does it all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from visionssm.analysis.flops import count_flops
from visionssm.analysis.pruning import images_per_s, report_pruning, tint_removed, top1
from visionssm.models.vim import Vim
from visionssm.pruning import load_exported, prune, unprune

ROOT = Path(__file__).parents[2]
SMALL = dict(img_size=32, patch_size=8, stride=8, depth=4, embed_dim=16, num_classes=2, d_state=2)


def test_report_counts_what_is_there_and_leaves_the_model_pruned():
    model = prune(Vim(**SMALL).eval(), {0: 0.5, 2: 0.25}, "norm", "merge")
    before = model.pruning
    images = torch.randn(2, 3, 32, 32)
    report = report_pruning(model, images, seconds=1e-3)
    assert model.pruning == before
    assert report.patches == [(0, 8), (2, 2)]
    pruned = count_flops(model, (3, 32, 32))
    assert report.flops == (count_flops(unprune(model), (3, 32, 32)), pruned)
    assert min(report.images_per_s) > 0
    text = str(report._replace(flops=(2_000_000_000, 1_500_000_000), images_per_s=(100.0, 150.0)))
    assert "8 after block 0, 2 after block 2" in text
    assert "2.000 G -> 1.500 G an image, 25.0% fewer" in text
    assert "100 -> 150, 1.50 times as many" in text
    with pytest.raises(ValueError, match="model: expected a pruned model, got Vim"):
        report_pruning(model, images)


def test_images_per_s_is_of_the_median(monkeypatch):
    clock = iter([0, 1, 0, 1, *[t for took in (4, 2, 2, 2, 1) for t in (0, took)]])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert images_per_s(lambda x: x, torch.zeros(6, 1), seconds=0.1) == 3


def test_top1():
    class First(torch.nn.Linear):
        def forward(self, x):
            return x

    batches = [(torch.eye(3), torch.tensor([0, 1, 0])), (torch.eye(3)[:1], torch.tensor([0]))]
    assert top1(First(1, 1), batches) == 0.75


def test_removed_patches_are_tinted():
    picture = torch.ones(4, 6, 3)
    tinted = tint_removed(picture, torch.tensor([0, 5]), (2, 3))
    kept = (tinted == 1).all(-1)
    assert kept.nonzero().tolist() == [
        [0, 0],
        [0, 1],
        [1, 0],
        [1, 1],
        [2, 4],
        [2, 5],
        [3, 4],
        [3, 5],
    ]


def test_the_tool_from_images_to_a_folder_that_loads(tmp_path):
    torch.manual_seed(0)
    save_for_hf(timm.create_model("vim_tiny", **SMALL), tmp_path / "model", safe_serialization=True)
    for name, value in (("black", 0), ("white", 255)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (40, 40), (value,) * 3).save(tmp_path / "images" / name / f"{i}.png")
    command = [sys.executable, "tools/prune.py", str(tmp_path / "model"), "--device", "cpu"]
    command += ["--data", str(tmp_path / "images"), "--keep", "{1: 0.5}", "--mode", "merge"]
    command += ["--visualize", str(tmp_path / "kept.png"), "--out", str(tmp_path / "pruned")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for text in ("unpruned, 4 images", "keep 0.5 after 1", "% pruned", "% fewer", "pruned:"):
        assert text in run.stdout
    assert Image.open(tmp_path / "kept.png").size[0] > 400
    loaded = load_exported(tmp_path / "pruned")
    assert (loaded.pruning.schedule.keep, loaded.pruning.mode) == ({1: 0.5}, "merge")
