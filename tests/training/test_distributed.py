"""Two gloo processes under torchrun train as one process does on the same global batches."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import RUNNERS

from visionssm.training import leave_process_group, read_checkpoint, train

from .conftest import EVALUATION


def launch_two(config, work_dir: Path) -> None:
    """Run `tools/train.py` without CUDA, so that the processes talk through gloo."""
    config.dump(work_dir.with_suffix(".py"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["tools/train.py", str(work_dir.with_suffix(".py"))]
    command += ["--launcher", "pytorch", "--work-dir", str(work_dir)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def process_group(monkeypatch):
    """One process under gloo, as torchrun starts several where CUDA is missing."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("LOCAL_RANK", "0")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    leave_process_group()


@pytest.mark.parametrize("unused", [False, True])
def test_the_config_says_whether_parameters_may_be_unused(tiny_config, process_group, unused):
    tiny_config.launcher = "pytorch"
    tiny_config.find_unused_parameters = unused
    assert RUNNERS.build(tiny_config).model.find_unused_parameters == unused


def test_a_process_group_is_left_once(process_group):
    leave_process_group()
    assert not torch.distributed.is_initialized()
    leave_process_group()  # as a program without a launcher does


def test_two_processes_equal_one(tiny_config, tmp_path):
    """Same weights and metrics as one process with the double batch, up to summation order.

    Randomness is off, since each process draws its own. With SGD an error of a gradient enters the
    weights linearly: six steps of float32 rounding stay far below the tolerance. 15 validation
    images do not divide by two: one is repeated, and must not count.
    """
    config = copy.deepcopy(tiny_config)
    config.model.network.drop_path_rate = 0.0
    config.model.data_preprocessor = {"type": "MixupPreprocessor"}
    config.train_dataloader.dataset.transform = {"is_training": True, "no_aug": True, **EVALUATION}
    config.train_cfg.max_epochs = 2
    config.optim_wrapper.optimizer = {"type": "SGD", "lr": 0.05, "momentum": 0.9}

    launch_two(config, tmp_path / "two")
    config.train_dataloader.batch_size *= 2
    config.work_dir = str(tmp_path / "one")
    train(config)

    one, two = (read_checkpoint(tmp_path / name / "last.pth") for name in ("one", "two"))
    assert one["meta"]["iter"] == two["meta"]["iter"] == 6
    for name, weight in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], weight, rtol=1e-4, atol=1e-6)
    one, two = (
        json.loads(Path(tmp_path, name, "summary.json").read_text()) for name in ("one", "two")
    )
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["test"] == pytest.approx(one["test"], rel=1e-4)
