"""`visionssm predict` on folders made by hand; on those of a run in tests/training."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from timm.models import save_for_hf

from tests.benchmarks.fashion import write_noise_and_black
from visionssm.cli.main import main

TRANSFORM = dict(input_size=[3, 32, 32], crop_pct=1.0)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    options = dict(img_size=32, patch_size=8, stride=8, depth=1, embed_dim=16, num_classes=10)
    save_for_hf(timm.create_model("vim_tiny", **options), tmp_path, safe_serialization=True)
    return tmp_path


def test_held_out_images_of_fashion_mnist(folder, capsys):
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    write_noise_and_black(raw, side=28, train=2, test=6)
    for name in ("images-idx3", "labels-idx1"):  # torchvision looks for all four
        (raw / f"train-{name}-ubyte").touch()
    dataset = {
        "type": "FashionMNIST", "root": str(folder), "split": "test", "transform": TRANSFORM
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps({"test_dataset": dataset}))
    assert main(["predict", str(folder), "--samples", "3"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.rpartition("#")[2] for line in lines] == ["0", "2", "4"]
    assert all("truth 0" in line for line in lines)
    assert last.endswith("of 3 held-out test images right")


@pytest.mark.parametrize("samples", ["0", "-3"])
def test_no_samples_are_refused(folder, capsys, samples):
    assert main(["predict", str(folder), "--samples", samples]) == 2
    assert f"--samples: expected at least 1, got {samples}" in capsys.readouterr().err


def test_a_damaged_model_is_named(folder, capsys):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert main(["predict", str(folder), "image.png"]) == 2
    assert capsys.readouterr().err.startswith(f"visionssm predict: {str(folder)!r} holds no model")
