"""Training on several devices: processes of the CPU, and the arithmetic of the table."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import scaling
from benchmarks.scaling import Job, main

TINY = ["--model", "vmamba_pico", "--size", "32", "--batch", "2", "--steps", "1"]


def test_two_processes_train(tmp_path):
    assert main([*TINY, "--device", "cpu", "--processes", "2", "--out", str(tmp_path)]) == 0
    stem = "scaling-vmamba-pico-processes-2-size-32-batch-2-steps-1"
    results = json.loads((tmp_path / f"{stem}.json").read_text())
    assert results["job"]["batch"] == 2
    (row,) = results["rows"]
    assert row["processes"] == 2
    assert row["images_per_s"] > 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md"}


def test_rates_are_compared_with_the_first(tmp_path, monkeypatch):
    rates = {1: 100.0, 2: 190.0, 4: 300.0}
    monkeypatch.setattr(scaling, "measure", lambda job, processes, folder: rates[processes])
    rows = scaling.scaling(Job(device="cpu"), [1, 2, 4], tmp_path)["rows"]
    assert [row["of_ideal"] for row in rows] == [1.0, 0.95, 0.75]
    stem = "scaling-vmamba-tiny-s1l8-processes-1-2-4"
    assert "| 2 | 190 | 95.0% |" in (tmp_path / f"{stem}.md").read_text()
    scaling.scaling(Job(device="cpu"), [1, 2], tmp_path)
    assert (tmp_path / "scaling-vmamba-tiny-s1l8.md").is_file()


def test_a_step_changes_the_weights():
    step = scaling.Step(Job("vmamba_pico", 32, 2, device="cpu"), 0, 1)
    before = step.model.head.fc.weight.detach().clone()
    step()
    assert not torch.equal(before, step.model.head.fc.weight)
    assert all(parameter.grad is None for parameter in step.model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "0"], "expected positive numbers"),
        (["--processes", "99"], "expected at most the"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train(tmp_path):
    assert main([*TINY, "--processes", "1", "2", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "scaling-vmamba-pico-size-32-batch-2-steps-1.json").read_text())[
        "rows"
    ]
    assert [row["processes"] for row in rows] == [1, 2]
