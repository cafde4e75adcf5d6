"""What a run leaves behind, and that it can be used without the training code."""

import argparse
import json
import struct
from pathlib import Path

import pytest
import timm
import torch
from mmengine.registry import DATASETS, MODELS
from safetensors.torch import load_file

from visionssm.cli import predict
from visionssm.pruning import load_exported
from visionssm.training import ImageClassifier, ImageFiles, read_checkpoint, train
from visionssm.training.hooks.metrics_log import read_metrics

from .conftest import CLASSES


@MODELS.register_module()
class PlainClassifier(ImageClassifier):
    """A classifier that builds its network itself."""

    def __init__(self, data_preprocessor: dict) -> None:
        network = {"model_name": "test_convnext", "num_classes": len(CLASSES)}
        super().__init__(network, data_preprocessor=data_preprocessor)


@DATASETS.register_module()
class FilesOfSomeone(ImageFiles):
    """A data set whose preprocessing is its own affair."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        del self.transform_args


@pytest.fixture
def finished_run(tiny_config) -> Path:
    train(tiny_config)
    return Path(tiny_config.work_dir)


def call_predict(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    predict.add_parser(parser.add_subparsers(dest="command"))
    return predict.run(parser.parse_args(["predict", *arguments]))


def test_run_leaves_what_it_promises(finished_run, image_root, capsys):
    summary = json.loads((finished_run / "summary.json").read_text())
    assert summary["model"] == "test_convnext"
    assert summary["epochs"] == 3
    assert 0 <= summary["test_accuracy"] <= 1
    assert summary["test_accuracy"] == summary["test"]["top1"] / 100
    assert summary["seconds"] >= summary["train_seconds"] > 0
    assert summary["device"]
    assert set(summary["versions"]) == {"python", "visionssm", "torch", "timm", "mmengine"}

    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 6), (2, 12), (3, 18)]
    assert all(set(line["val"]) == {"top1", "cross_entropy"} for line in lines)
    assert summary["best_validation_score"] == max(line["val"]["top1"] for line in lines)

    for name in ("curves.png", "confusion.png"):
        header = (finished_run / name).read_bytes()[:24]
        assert header[:8] == b"\x89PNG\r\n\x1a\n"
        assert min(struct.unpack(">II", header[16:])) > 300
    assert list(finished_run.rglob("events.out.tfevents.*"))
    assert "max_epochs" in next(finished_run.glob("*.py")).read_text()
    assert not list(finished_run.rglob("*.tmp"))


def test_exported_folder_is_timms_and_holds_the_best_weights(finished_run):
    network = timm.create_model(f"local-dir:{finished_run}", pretrained=True)
    best = read_checkpoint(finished_run / "best.pth")["state_dict"]
    exported = load_file(finished_run / "model.safetensors")
    assert {f"network.{name}" for name in exported} == set(best)
    for name, value in network.state_dict().items():
        assert torch.equal(value, exported[name])
        assert torch.equal(value, best[f"network.{name}"])
    config = timm.data.resolve_model_data_config(network)
    assert (config["input_size"], config["crop_pct"]) == ((3, 32, 32), 1.0)
    assert network.pretrained_cfg["label_names"] == list(CLASSES)


def test_run_without_validation_exports_its_last_weights(tiny_config):
    for key in ("val_dataloader", "val_cfg", "val_evaluator"):
        tiny_config.pop(key)
    train(tiny_config)
    folder = Path(tiny_config.work_dir)
    last = read_checkpoint(folder / "last.pth")["state_dict"]
    exported = load_file(folder / "model.safetensors")
    assert all(torch.equal(exported[name], last[f"network.{name}"]) for name in exported)
    assert not (folder / "best.pth").exists()


def test_a_data_set_of_someone_else_exports_with_the_preprocessing_of_the_model(tiny_config):
    tiny_config.train_cfg.max_epochs = 1
    tiny_config.val_dataloader.dataset.type = "FilesOfSomeone"
    train(tiny_config)
    network = timm.create_model(f"local-dir:{tiny_config.work_dir}", pretrained=True)
    own = timm.create_model("test_convnext")
    assert network.pretrained_cfg["crop_pct"] == own.pretrained_cfg["crop_pct"]
    assert network.pretrained_cfg["label_names"] == list(CLASSES)


def test_a_model_of_someone_else_is_summed_up_by_its_type(tiny_config):
    tiny_config.train_cfg.max_epochs = 1
    tiny_config.default_hooks.pop("export")
    model = {"type": "PlainClassifier", "data_preprocessor": tiny_config.model.data_preprocessor}
    tiny_config.model = model
    train(tiny_config)
    summary = json.loads(Path(tiny_config.work_dir, "summary.json").read_text())
    assert summary["model"] == "PlainClassifier"


def test_predict_classifies_held_out_images_with_truth(finished_run, capsys):
    capsys.readouterr()
    assert call_predict(str(finished_run), "--samples", "15") == 0
    *lines, last = capsys.readouterr().out.splitlines()
    right = sum(line.startswith("right") for line in lines)
    assert len(lines) == 15
    assert last == f"{right} of 15 held-out test images right"
    summary = json.loads((finished_run / "summary.json").read_text())
    assert right == round(15 * summary["test_accuracy"])


def test_predict_classifies_files_and_reports_unreadable_ones(finished_run, image_root, capsys):
    capsys.readouterr()
    good, bad = image_root / "val" / "owl" / "00.png", finished_run / "summary.json"
    assert call_predict(str(finished_run), str(good), str(bad)) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{good}: ")
    assert any(name in first for name in CLASSES)
    assert second.startswith(f"{bad}: cannot be read")


def test_predict_refuses_what_is_no_model(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json and no model\.safetensors"):
        call_predict(str(tmp_path))


def test_predict_builds_no_class_that_a_folder_names(finished_run):
    path = finished_run / "summary.json"
    path.write_text(json.dumps({"test_dataset": {"type": "subprocess.Popen", "args": "ls"}}))
    with pytest.raises(ValueError, match=r"type 'subprocess\.Popen', expected \['Handwritten"):
        call_predict(str(finished_run))


def test_learning_rate_in_the_log_is_that_of_the_last_layers(tiny_config):
    tiny_config.train_cfg.max_epochs = 1
    tiny_config.param_scheduler = []
    tiny_config.optim_wrapper.paramwise_cfg = {"layer_decay": 0.5}
    train(tiny_config)
    (line,) = read_metrics(tiny_config.work_dir)
    assert line["lr"] == tiny_config.optim_wrapper.optimizer.lr


@pytest.mark.parametrize("terminal", [True, False])
def test_console_shows_progress_and_time_left(tiny_config, capfd, monkeypatch, terminal):
    monkeypatch.setattr("visionssm.training.hooks.progress.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    train(tiny_config)
    out, err = capfd.readouterr()
    assert "epoch 3/3  step 18/18  eta 0:00:00  validation: top1" in out
    assert "test: top1" in out
    assert ("training:" in err) == terminal
    assert ("epoch 1/3  step 2/18  eta 0:0" in out) != terminal
    assert "Hooks will be executed" not in out + err


def test_a_pruned_run_exports_a_pruned_network(tiny_config):
    tiny_config.model.network = dict(
        model_name="vim_tiny", img_size=32, depth=3, embed_dim=16, num_classes=len(CLASSES)
    )
    tiny_config.model.pruning = dict(keep={1: 0.5}, mode="hard")
    tiny_config.train_cfg.max_epochs = 1
    train(tiny_config)
    loaded = load_exported(tiny_config.work_dir)
    assert (loaded.pruning.schedule.keep, loaded.pruning.mode) == ({1: 0.5}, "hard")
    last = read_checkpoint(Path(tiny_config.work_dir, "best.pth"))["state_dict"]
    weights = loaded.state_dict()
    assert all(torch.equal(weights[k.removeprefix("network.")], v) for k, v in last.items())


def test_a_compiled_run_leaves_what_others_leave(tiny_config):
    tiny_config.model.compile = dict(backend="eager")
    train(tiny_config)
    best = read_checkpoint(Path(tiny_config.work_dir, "best.pth"))["state_dict"]
    weights = timm.create_model(f"local-dir:{tiny_config.work_dir}", pretrained=True).state_dict()
    assert {f"network.{name}" for name in weights} == set(best)
    assert all(torch.equal(best[f"network.{name}"], value) for name, value in weights.items())
