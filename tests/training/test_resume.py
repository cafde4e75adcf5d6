"""A resumed run repeats an uninterrupted one bit for bit; equal seeds give equal runs.

On CUDA that takes `randomness=dict(deterministic=True)`, which the tiny config sets.
"""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler

from visionssm.training import read_checkpoint, train
from visionssm.training.hooks.metrics_log import read_metrics

from .helpers import run


@DATA_SAMPLERS.register_module()
class FourAtATime(BatchSampler):
    """A batch sampler, as COCO configs have one."""

    def __init__(self, sampler, batch_size: int) -> None:
        super().__init__(sampler, 4 * batch_size, drop_last=True)


HALFWAY = {"default_hooks.checkpoint.interval_iters": 2}
CASES = {
    "epoch boundary": (7, {}),
    "epoch boundary, two workers": (9, {"train_dataloader.num_workers": 2}),
    "within an epoch": (10, HALFWAY),
    "within an epoch, one persistent worker": (
        10,
        {
            **HALFWAY,
            "train_dataloader.num_workers": 1,
            "train_dataloader.persistent_workers": True,
        },
    ),
    "accumulated gradients": (10, {**HALFWAY, "optim_wrapper.accumulative_counts": 2}),
    "gradients accumulated across epochs": (10, {"optim_wrapper.accumulative_counts": 4}),
    "repeated augmentation": (
        10,
        {
            **HALFWAY,
            "train_dataloader.sampler.sampler": {"type": "RepeatAugSampler", "_delete_": True},
        },
    ),
    "steps without epochs": (
        8,
        {
            "train_cfg": {
                "type": "IterBasedTrainLoop",
                "max_iters": 18,
                "val_interval": 6,
                "_delete_": True,
            },
            "train_dataloader.sampler.sampler": {"type": "InfiniteSampler", "_delete_": True},
        },
    ),
    "bfloat16": (7, {"optim_wrapper.type": "BFloat16OptimWrapper"}),
    "float16 with loss scaling": (
        7,
        {"optim_wrapper.type": "AmpOptimWrapper", "optim_wrapper.dtype": "float16"},
    ),
}


def cases() -> list:
    """Each case under its name; float16 trains on CUDA only."""
    return [
        pytest.param(*case, id=name, marks=[pytest.mark.gpu] * (name.startswith("float16")))
        for name, case in CASES.items()
    ]


@pytest.mark.parametrize(("stop", "options"), cases())
def test_resumed_run_equals_an_uninterrupted_one(tiny_config, tmp_path, stop, options):
    """Losses of every step, weights, averaged weights, optimizer state and logged epochs."""
    whole, losses = run(tiny_config, work_dir=str(tmp_path / "whole"), **options)
    assert len(losses) == 18

    cut = {**options, "work_dir": str(tmp_path / "cut")}
    _, first = run(tiny_config, record={"stop": stop}, **cut)
    _, rest = run(tiny_config, record={"stop": None}, resume=True, **cut)
    saved = len(losses) - len(rest)
    assert 0 < saved <= stop
    assert first[:saved] + rest == losses

    one, other = (read_checkpoint(tmp_path / name / "last.pth") for name in ("whole", "cut"))
    for part in ("state_dict", "ema_state_dict"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])
    assert str(one["optimizer"]) == str(other["optimizer"])
    logs = [read_metrics(tmp_path / name) for name in ("whole", "cut")]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == [6, 12, 18]
    assert all("val" in line for line in logs[0])


def test_equal_seeds_give_equal_runs_and_other_seeds_other_runs(tiny_config, tmp_path):
    options = {"train_cfg.max_epochs": 1}
    runs = [
        run(tiny_config, work_dir=str(tmp_path / name), **options, **{"randomness.seed": seed})[1]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_a_summary_counts_the_seconds_of_all_parts_of_a_run(tiny_config):
    run(tiny_config, record={"stop": 8})
    last = Path(tiny_config.work_dir, "last.pth")
    checkpoint = read_checkpoint(last)
    info = checkpoint["message_hub"]["runtime_info"]
    assert 0 < info["train_seconds"] < 600
    info["train_seconds"] += 1000
    torch.save(checkpoint, last)
    tiny_config.pop("custom_hooks")
    train(tiny_config, resume=True)
    summary = json.loads(Path(tiny_config.work_dir, "summary.json").read_text())
    assert summary["seconds"] >= summary["train_seconds"] > info["train_seconds"]


def test_resume_without_a_checkpoint_begins(tiny_config):
    tiny_config.train_cfg.max_epochs = 1
    train(tiny_config, resume=True)
    assert len(read_metrics(tiny_config.work_dir)) == 1


@pytest.mark.parametrize("moved", [False, True])
def test_a_config_may_say_that_a_run_resumes(tiny_config, tmp_path, moved):
    """`--cfg-options resume=True`, with `load_from` where the checkpoint lies elsewhere."""
    run(tiny_config, record={"stop": 8})
    Path(tiny_config.work_dir, "metrics.jsonl").unlink()
    tiny_config.custom_hooks = []
    tiny_config.resume = True
    if moved:
        tiny_config.load_from = f"{tiny_config.work_dir}/last.pth"
        tiny_config.work_dir = str(tmp_path / "elsewhere")
    train(tiny_config)
    assert [line["step"] for line in read_metrics(tiny_config.work_dir)] == [12, 18]


def test_weights_alone_are_no_run_to_resume(tiny_config):
    run(tiny_config, record={"stop": 8})
    tiny_config.load_from = f"{tiny_config.work_dir}/best.pth"
    with pytest.raises(ValueError, match=r"cannot resume .*best\.pth: it holds weights alone"):
        run(tiny_config, resume=True)


def test_run_resumes_after_its_folder_was_moved(tiny_config, tmp_path):
    _, losses = run(tiny_config, record={"stop": 8})
    moved = Path(shutil.copytree(tiny_config.work_dir, tmp_path / "moved"))
    Path(tiny_config.work_dir, "last.pth").unlink()
    tiny_config.work_dir = str(moved)
    tiny_config.pop("custom_hooks")
    train(tiny_config, resume=True)
    lines = read_metrics(moved)
    assert [line["step"] for line in lines] == [6, 12, 18]
    assert lines[0]["loss"] == pytest.approx(sum(losses[:6]) / 6)


def test_resuming_a_finished_run_trains_no_step(tiny_config):
    runner, _ = run(tiny_config)
    before = Path(runner.work_dir, "last.pth").read_bytes()
    _, losses = run(tiny_config, resume=True)
    assert losses == []
    assert Path(runner.work_dir, "last.pth").read_bytes() == before


@pytest.mark.parametrize("seed", [None, 5])
def test_resume_with_another_seed_is_refused(tiny_config, seed):
    run(tiny_config, record={"stop": 8})
    with pytest.raises(ValueError, match=r"seed 0, this one .*randomness=dict\(seed=0\)"):
        run(tiny_config, resume=True, record={"stop": None}, **{"randomness.seed": seed})


@pytest.mark.parametrize(
    "options",
    [
        {"train_dataloader.sampler": {"type": "DefaultSampler", "_delete_": True}},
        {
            "train_dataloader.batch_size": 1,
            "train_dataloader.drop_last": False,
            "train_dataloader.batch_sampler": {"type": "FourAtATime"},
        },
        {"train_cfg.type": "EpochBasedTrainLoop"},
    ],
    ids=["sampler", "batch sampler", "loop"],
)
def test_what_cannot_resume_within_an_epoch_is_refused_before_it_is_saved_there(
    tiny_config, options
):
    def train_on(**more):
        return run(copy.deepcopy(tiny_config), **more)

    with pytest.raises(ValueError, match=r"interval_iters=2: .*SeededSampler and no batch"):
        train_on(**HALFWAY, **options)
    assert not Path(tiny_config.work_dir, "last.pth").exists()
    train_on(**HALFWAY, record={"stop": 9})
    with pytest.raises(ValueError, match=r"cannot resume .* at step 8: .*ResumableEpochLoop"):
        train_on(resume=True, **options)


def test_gradients_accumulated_across_epochs_need_a_loop_that_resumes_within_them(tiny_config):
    options = {"optim_wrapper.accumulative_counts": 4, "train_cfg.type": "EpochBasedTrainLoop"}
    with pytest.raises(ValueError, match=r"accumulative_counts=4, 6 steps an epoch: .*Loop"):
        run(tiny_config, **options)


def test_resume_with_another_schedule_is_refused(tiny_config):
    run(tiny_config, record={"stop": 8})
    with pytest.raises(ValueError, match=r"its run has 18 steps, this one 24.*load_from"):
        run(tiny_config, resume=True, record={"stop": None}, **{"train_cfg.max_epochs": 4})
