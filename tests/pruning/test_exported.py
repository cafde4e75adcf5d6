"""A pruned model's folder says how it is pruned, and comes back so."""

from __future__ import annotations

import json
import os

import pytest
import timm
import torch

from visionssm.models.vim import Vim
from visionssm.pruning import load_exported, prune, pruning_entry, save_exported

OPTIONS = dict(img_size=32, depth=3, embed_dim=16, num_classes=4)


@pytest.mark.parametrize("pruned", [False, True])
def test_stored_and_loaded(tmp_path, pruned):
    torch.manual_seed(0)
    model = timm.create_model("vim_tiny", **OPTIONS).eval()
    if pruned:
        prune(model, {1: 0.5}, "random", "merge", time="carried", seed=7)
    save_exported(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert ("pruning" in json.loads((tmp_path / "config.json").read_text())) == pruned
    loaded = load_exported(tmp_path)
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(image), model(image))
    assert getattr(loaded, "pruning", None) == getattr(model, "pruning", None)
    plain = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert type(plain) is Vim


def test_what_is_said_beside_the_weights_is_stored(tmp_path):
    model = timm.create_model("vim_tiny", **OPTIONS)
    labels = {"pretrained_cfg": {"num_classes": 4, "label_names": list("abcd")}}
    save_exported(model, tmp_path / "new" / "folder", labels, {"crop_pct": 0.5})
    cfg = load_exported(tmp_path / "new" / "folder").pretrained_cfg
    assert (cfg["label_names"], cfg["crop_pct"]) == (list("abcd"), 0.5)


def test_a_failed_export_leaves_the_old_one(tmp_path, monkeypatch):
    model = timm.create_model("vim_tiny", **OPTIONS).eval()
    save_exported(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_exported(prune(model, 0.5), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_function_cannot_be_stored():
    model = prune(timm.create_model("vim_tiny", **OPTIONS), 0.5, lambda out: out.tokens.sum(-1))
    with pytest.raises(ValueError, match="importance: expected"):
        pruning_entry(model)


@pytest.mark.parametrize(("file", "content", "message"), [
    ("config.json", b"{}", "KeyError"),
    ("config.json", b"{", "Expecting property name"),
    ("config.json", b'{"architecture": "vim_minute"}', "Unknown model"),
    ("model.safetensors", b"\x08", "SafetensorError"),
])  # fmt: skip
def test_a_damaged_folder_is_named(tmp_path, file, content, message):
    save_exported(timm.create_model("vim_tiny", **OPTIONS), tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"holds no model that timm opens: .*{message}"):
        load_exported(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path):
    save_exported(timm.create_model("vim_tiny", **OPTIONS), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"]["depth"] += 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"{tmp_path.name}' holds no model that timm opens"):
        load_exported(tmp_path)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json and no model\.safetensors"):
        load_exported(tmp_path)
