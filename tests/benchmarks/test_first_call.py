"""First calls of a small model, in a process with an empty cache."""

from __future__ import annotations

import json
import os

import pytest
import torch

from benchmarks.first_call import PARTS, main
from tests.models.golden import DEVICES
from visionssm.ops.dispatch import numba_works

TINY = ["--models", "vmamba_pico", "--size", "32", "--batch", "2"]


@pytest.mark.parametrize("device", DEVICES)
def test_parts_are_timed(device, tmp_path):
    before = dict(os.environ)
    assert main([*TINY, "--device", device, "--out", str(tmp_path)]) == 0
    assert dict(os.environ) == before
    stem = "first-call-models-vmamba-pico-size-32-batch-2"
    (row,) = json.loads((tmp_path / f"{stem}.json").read_text())["rows"]
    assert row["model"] == "vmamba_pico"
    assert tuple(sorted(row["seconds"])) == tuple(sorted(PARTS))
    assert all(seconds > 0 for seconds in row["seconds"].values())
    if device == "cuda" or numba_works():  # kernels are compiled once
        assert row["seconds"]["training_again"] < row["seconds"]["training"]
    assert "| vmamba_pico |" in (tmp_path / f"{stem}.md").read_text()


def test_bad_arguments(capsys):
    with pytest.raises(SystemExit):
        main(["--models", "no_such_model"])
    assert "expected names in timm's registry, got 'no_such_model'" in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            main(TINY)
        assert "--device: expected a CUDA device" in capsys.readouterr().err
