"""`visionssm convert`: an official checkpoint to a file that timm loads, or a clear refusal."""

import sys
from types import SimpleNamespace

import timm
import torch

from visionssm.cli.main import main
from visionssm.models.vmamba import official_layout


def official_pico(**changes):
    """A vmamba_pico with random weights, and its state dict under the official names."""
    model = timm.create_model("vmamba_pico", **changes).eval()
    names = official_layout(model).names
    return model, {names[key]: value for key, value in model.state_dict().items()}


def convert(tmp_path, content):
    torch.save(content, tmp_path / "official.pth")
    return main(["convert", str(tmp_path / "official.pth"), str(tmp_path / "ours.safetensors")])


def test_converted_file_gives_the_same_outputs_through_timm(tmp_path, capsys):
    model, official = official_pico()
    assert convert(tmp_path, {"model": official, "epoch": 3}) == 0
    assert "vmamba_pico" in capsys.readouterr().out
    file = str(tmp_path / "ours.safetensors")
    by_overlay = timm.create_model(
        "vmamba_pico", pretrained=True, pretrained_cfg_overlay={"file": file}
    ).eval()
    by_path = timm.create_model("vmamba_pico", checkpoint_path=file).eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(image)
        assert torch.equal(by_overlay(image), expected)
        assert torch.equal(by_path(image), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["official.pth", "ours.safetensors"]


def refusal(tmp_path, capsys, content):
    assert convert(tmp_path, content) == 2
    assert not (tmp_path / "ours.safetensors").exists()
    return capsys.readouterr().err


def test_foreign_weights_name_the_closest_model_and_what_does_not_fit(tmp_path, capsys):
    message = refusal(tmp_path, capsys, {"conv1.weight": torch.zeros(1)})
    assert "fits none of our models" in message
    assert "unexpected conv1.weight" in message or "more" in message


def test_another_number_of_classes_is_named(tmp_path, capsys):
    _, official = official_pico(num_classes=7)
    message = refusal(tmp_path, capsys, official)
    assert "Closest is vmamba_pico, where 2 keys do not fit" in message
    assert "head.fc.weight: expected (1000, 256), got (7, 256)" in message


def test_a_stored_yacs_configuration_is_read_without_yacs(tmp_path, monkeypatch):
    config = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", SimpleNamespace())
        patch.setitem(sys.modules, "yacs.config", SimpleNamespace(CfgNode=config))
        content = {"model": official_pico()[1], "config": config(MODEL=config(NAME="pico"))}
        torch.save(content, tmp_path / "official.pth")
    target = tmp_path / "ours.safetensors"
    assert main(["convert", str(tmp_path / "official.pth"), str(target)]) == 0
    assert target.is_file()


class Opaque:
    """What a checkpoint must not hold."""


def test_python_objects_are_refused_with_a_way_out(tmp_path, capsys):
    message = refusal(tmp_path, capsys, {"model": {}, "config": Opaque()})
    assert "would run code" in message
    assert "torch.save(" in message


def test_truncated_file(tmp_path, capsys):
    convert(tmp_path, official_pico()[1])
    capsys.readouterr()
    (tmp_path / "ours.safetensors").unlink()
    file = tmp_path / "official.pth"
    file.write_bytes(file.read_bytes()[:-1000])
    assert main(["convert", str(file), str(tmp_path / "ours.safetensors")]) == 2
    assert "damaged" in capsys.readouterr().err
    assert not (tmp_path / "ours.safetensors").exists()


def test_missing_source_and_wrong_target_are_named(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "no.pth"), str(tmp_path / "x.safetensors")]) == 2
    assert "no file" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "no.pth"), str(tmp_path / "x.bin")]) == 2
    assert "ending in .safetensors" in capsys.readouterr().err
