"""From the command line to a run."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from mmengine.registry import RUNNERS

from visionssm.training import load_config, train, use_amp
from visionssm.training import test as evaluate

DEMO = "configs/classification/vmamba_digits_demo.py"


def test_command_line_overrides_the_config():
    options = {"train_cfg.max_epochs": 2, "model.network.model_name": "x"}
    cfg = load_config(DEMO, cfg_options=options, launcher="pytorch")
    assert cfg.work_dir == "work_dirs/vmamba_digits_demo"
    assert cfg.launcher == "pytorch"
    assert (cfg.train_cfg.max_epochs, cfg.model.network.model_name) == (2, "x")
    assert load_config(DEMO, work_dir="here").work_dir == "here"


def test_missing_config_is_refused():
    with pytest.raises(ValueError, match=r"config 'no\.py': no such file"):
        load_config("no.py")


def test_amp_chooses_the_wrapper(monkeypatch):
    cfg = load_config(DEMO)
    use_amp(cfg, "bfloat16")
    assert cfg.optim_wrapper.type == "BFloat16OptimWrapper"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    use_amp(cfg, "float16")
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.dtype) == ("AmpOptimWrapper", "float16")
    use_amp(cfg, "bfloat16")
    assert "dtype" not in cfg.optim_wrapper


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_amp_with_sharded_parameters_keeps_the_wrapper_that_shards(monkeypatch, dtype):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    cfg = load_config("configs/classification/vmamba_base_s1l20_imagenet_fsdp.py")
    use_amp(cfg, dtype)
    wrapper = cfg.optim_wrapper.to_dict()
    assert (wrapper["type"], wrapper["dtype"], wrapper["use_fsdp"]) == (
        "AmpOptimWrapper",
        dtype,
        True,
    )


@pytest.mark.parametrize(
    ("dtype", "message"), [("int8", "amp='int8': expected one of"), ("float16", "needs CUDA")]
)
def test_impossible_amp_is_refused(monkeypatch, dtype, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        use_amp(load_config(DEMO), dtype)


def test_evaluation_needs_a_test_set(tiny_config):
    tiny_config.pop("test_dataloader")
    with pytest.raises(ValueError, match="no test_dataloader"):
        evaluate(tiny_config, "best.pth")


@pytest.mark.parametrize("job", [train, lambda cfg: evaluate(cfg, "best.pth")])
def test_a_network_with_other_classes_than_the_data_is_refused_at_once(tiny_config, job):
    tiny_config.model.network.num_classes = 10
    with pytest.raises(ValueError, match=r"num_classes=10 .* the data set has 3 classes"):
        job(tiny_config)


def test_tools_train_and_test_agree(tiny_config, tmp_path, monkeypatch):
    """`tools/train.py --amp --cfg-options`, then `tools/test.py` on its best checkpoint."""

    def run_tool(*command: str) -> None:
        monkeypatch.setattr(sys, "argv", list(command))
        runpy.run_path(command[0], run_name="__main__")

    config = tmp_path / "config.py"
    tiny_config.dump(config)
    trained, tested = tmp_path / "trained", tmp_path / "tested"
    options = ["--cfg-options", "train_cfg.max_epochs=2"]
    run_tool("tools/train.py", str(config), "--work-dir", str(trained), "--amp", *options)
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["epochs"] == 2
    assert "BFloat16OptimWrapper" in (trained / "config.py").read_text()

    best = str(trained / "best.pth")
    run_tool("tools/test.py", str(config), best, "--work-dir", str(tested))
    assert json.loads((tested / "summary.json").read_text())["test"] == summary["test"]


def test_training_with_weights_of_another_run_starts_from_them(tiny_config, tmp_path):
    tiny_config.train_cfg.max_epochs = 1
    train(tiny_config)
    best = str(Path(tiny_config.work_dir, "best.pth"))
    before = evaluate(tiny_config, best)
    tiny_config.load_from = best
    tiny_config.optim_wrapper.optimizer.lr = 1e-12
    tiny_config.work_dir = str(tmp_path / "next")
    train(tiny_config)
    after = json.loads((tmp_path / "next" / "summary.json").read_text())["test"]
    assert after["cross_entropy"] == pytest.approx(before["cross_entropy"], rel=1e-4)


def test_runs_that_begin_in_one_second_write_to_their_own_logs(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1e9)
    names = {"first", "second"}
    for name in sorted(names):
        tiny_config.work_dir = str(tmp_path / name)
        RUNNERS.build(tiny_config).logger.info(f"this is the {name}")
    for name in names:
        (log,) = (tmp_path / name).glob("*/*.log")
        assert {other for other in names if f"the {other}" in log.read_text()} == {name}
