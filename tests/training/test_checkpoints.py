"""Checkpoints are safe to load, fit strictly, and survive kill -9 of the run that writes them."""

import copy
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import METRICS, RUNNERS
from safetensors.torch import load_file, save_file

from visionssm.training import TopKAccuracy, read_checkpoint, train

from .helpers import run

KILLED_RUNS = """
import os, signal, sys
from mmengine.config import Config
from tests.training.helpers import unformatted
from visionssm.training import train

config = unformatted(Config.fromfile(sys.argv[1]))
replace = os.replace

def run_killed_at(name, count):
    def die_with_half_the_bytes_written(source, destination):
        nonlocal count
        count -= os.path.basename(destination) == name
        if count == 0:
            os.truncate(source, os.path.getsize(source) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, destination)

    os.replace = die_with_half_the_bytes_written
    config.work_dir = os.path.join(config.work_dir, name)
    train(config)

for name, count in (("last.pth", 2), ("best.pth", 1)):
    run = os.fork()
    if not run:
        run_killed_at(name, count)
    assert os.waitpid(run, 0)[1] == signal.SIGKILL, name
"""


def test_run_killed_while_saving_resumes_as_if_nothing_happened(tiny_config, tmp_path):
    """The second `last.pth` ends epoch 2; the first `best.pth` comes before any `last.pth`."""
    _, losses = run(tiny_config, work_dir=str(tmp_path / "whole"))
    tiny_config.pop("custom_hooks")
    tiny_config.work_dir = str(tmp_path / "killed")
    tiny_config.dump(tmp_path / "config.py")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_RUNS, str(tmp_path / "config.py")], capture_output=True
    )
    assert killed.returncode == 0, killed.stderr.decode()

    for name, left in (("last.pth", 12), ("best.pth", 18)):
        for path in (tmp_path / "killed" / name).glob("*.pth"):
            read_checkpoint(path)
        _, rest = run(tiny_config, resume=True, work_dir=str(tmp_path / "killed" / name))
        assert rest == losses[-left:], name


def test_last_and_best_are_kept_with_the_marker_that_mmengine_reads(tiny_config):
    runner, _ = run(tiny_config)
    folder = Path(runner.work_dir)
    assert {path.name for path in folder.glob("*.pth")} == {"last.pth", "best.pth"}
    assert (folder / "last_checkpoint").read_text() == str(folder / "last.pth")
    last, best = read_checkpoint(folder / "last.pth"), read_checkpoint(folder / "best.pth")
    assert {"optimizer", "param_schedulers", "ema_state_dict"} <= last.keys()
    assert "optimizer" not in best
    assert last["meta"]["epoch"] == 3
    assert best["meta"]["epoch"] == last["message_hub"]["runtime_info"]["best_epoch"]


def test_a_new_run_in_a_used_folder_keeps_to_its_own_weights(tiny_config):
    """One without validation and a test after it, and one killed before it saved anything."""
    train(tiny_config)
    folder = Path(tiny_config.work_dir)
    old = load_file(folder / "model.safetensors")
    new = copy.deepcopy(tiny_config)
    for key in ("val_dataloader", "val_cfg", "val_evaluator"):
        new.pop(key)
    new.train_cfg.max_epochs = 1
    (folder / "summary.json").unlink()
    train(new)
    last = read_checkpoint(folder / "last.pth")["state_dict"]
    exported = load_file(folder / "model.safetensors")
    assert all(torch.equal(value, last[f"network.{name}"]) for name, value in exported.items())
    assert not any(torch.equal(value, old[name]) for name, value in exported.items())
    assert "test" not in json.loads((folder / "summary.json").read_text())

    run(tiny_config, record={"stop": 3})
    assert not list(folder.glob("*.pth"))
    assert not (folder / "last_checkpoint").exists()


def test_unknown_monitor_is_refused_and_costs_no_epoch(tiny_config):
    with pytest.raises(ValueError, match=r"monitor='map': validation reports .*'top1'"):
        run(tiny_config, **{"default_hooks.checkpoint.monitor": "map"})
    _, losses = run(tiny_config, resume=True, **{"default_hooks.checkpoint.monitor": "top1"})
    assert len(losses) == 12


def test_validation_alone_leaves_the_weights_of_training(tiny_config):
    train(tiny_config)
    best = Path(tiny_config.work_dir, "best.pth")
    before = best.read_bytes()
    tiny_config.load_from = str(best)
    assert "top1" in RUNNERS.build(tiny_config).val()
    assert best.read_bytes() == before


@METRICS.register_module()
class NoScoreAtFirst(TopKAccuracy):
    """The first validation reports something else than a score."""

    def __init__(self, first: dict[str, float]) -> None:
        super().__init__()
        self.first, self.epochs = first, 0

    def compute_metrics(self, results):
        self.epochs += 1
        return self.first if self.epochs == 1 else {"top1": 1.0 / self.epochs}


@pytest.mark.parametrize("first", [{"top1": math.nan}, {}], ids=["nan", "nothing"])
def test_only_a_number_is_the_best_score(tiny_config, first):
    tiny_config.val_evaluator = {"type": "NoScoreAtFirst", "first": first}
    runner, _ = run(tiny_config)
    info = runner.message_hub.runtime_info
    assert (info["best_epoch"], info["best_score"]) == (2, 0.5)


class Stranger:
    """Code that runs when unpickled."""

    def __reduce__(self):
        return print, ("code of a stranger ran",)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"state_dict": {}, "meta": Stranger()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Stranger()))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(ValueError, match=rf"{name}' is damaged, or holds Python objects"):
            read_checkpoint(tmp_path / name)
    assert "stranger" not in capsys.readouterr().out


def test_missing_and_truncated_checkpoints_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint: no file .*nowhere\.pth"):
        read_checkpoint(tmp_path / "nowhere.pth")
    torch.save({"weights": torch.zeros(1000)}, tmp_path / "half.pth")
    content = (tmp_path / "half.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"half\.pth' is damaged"):
        read_checkpoint(tmp_path / "half.pth")


def test_weights_alone_are_no_checkpoint_of_a_run(tiny_config, tmp_path):
    """`load_from` names what it takes, given a run's own export or official weights."""
    weights = {"head.weight": torch.zeros(1)}
    save_file(weights, tmp_path / "model.safetensors")
    torch.save({"model": weights, "epoch": 3}, tmp_path / "official.pth")
    for name, key in (("model.safetensors", "head.weight"), ("official.pth", "model, epoch")):
        tiny_config.load_from = str(tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name}' has {key}\.\.\.: expected .* state_dict"):
            run(tiny_config)


def test_weights_that_do_not_fit_are_refused_by_name(tiny_config, tmp_path):
    tiny_config.default_hooks.pop("ema")
    runner = RUNNERS.build(tiny_config)
    weights = runner.model.state_dict()
    weights["network.extra"] = weights.pop("network.head.fc.bias")
    torch.save({"state_dict": weights}, tmp_path / "other.pth")
    with pytest.raises(RuntimeError, match=r"(?s)network\.head\.fc\.bias.*network\.extra"):
        runner.load_checkpoint(str(tmp_path / "other.pth"))
