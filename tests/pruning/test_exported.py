"""A pruned model's folder says how it is pruned, and comes back so."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from timm.models import save_for_hf

from visionssm.models.vim import Vim
from visionssm.pruning import load_exported, prune, pruning_entry

OPTIONS = dict(img_size=32, depth=3, embed_dim=16, num_classes=4)


def export(model, folder):
    save_for_hf(model, folder, model_config=pruning_entry(model), safe_serialization=True)


@pytest.mark.parametrize("pruned", [False, True])
def test_stored_and_loaded(tmp_path, pruned):
    torch.manual_seed(0)
    model = timm.create_model("vim_tiny", **OPTIONS).eval()
    if pruned:
        prune(model, {1: 0.5}, "random", "merge", time="carried", seed=7)
    export(model, tmp_path)
    assert ("pruning" in json.loads((tmp_path / "config.json").read_text())) == pruned
    loaded = load_exported(tmp_path)
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(image), model(image))
    assert getattr(loaded, "pruning", None) == getattr(model, "pruning", None)
    plain = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert type(plain) is Vim


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
    export(timm.create_model("vim_tiny", **OPTIONS), tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"holds no model that timm opens: .*{message}"):
        load_exported(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path):
    export(timm.create_model("vim_tiny", **OPTIONS), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"]["depth"] += 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"{tmp_path.name}' holds no model that timm opens"):
        load_exported(tmp_path)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json and no model\.safetensors"):
        load_exported(tmp_path)
