"""Pretrained weights: where they may come from, the account of them, and what is refused."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import timm
import torch
from mmengine.logging import MMLogger
from safetensors.torch import save_file

from tests.models.golden import official_weights
from tests.models.test_families import FAMILIES
from tests.openmmlab.cases import SMALL, each_family, small_backbone
from visionssm.openmmlab.checkpoint import load_pretrained


def classifier(family: str, **kwargs) -> torch.nn.Module:
    arch, sizes = SMALL[family]
    torch.manual_seed(1)
    return timm.create_model(arch, **{**sizes, "num_classes": 5, **kwargs})


def assert_filled(backbone, model) -> None:
    expected = model.state_dict()
    for key, value in backbone.model.state_dict().items():
        assert torch.equal(value, expected[key]), key


@each_family
def test_official_file_fills_the_backbone_and_the_log_says_so(family, tmp_path, caplog):
    model, file = classifier(family), tmp_path / "official.pth"
    layout = FAMILIES[family].module.official_layout(model)
    torch.save({"model": official_weights(model, layout), "epoch": 3}, file)
    init_cfg = {"type": "Pretrained", "checkpoint": str(file)}
    backbone = small_backbone(family, init_cfg=init_cfg)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    backbone.init_weights()
    logger.removeHandler(caplog.handler)
    assert_filled(backbone, model)
    said = caplog.text
    count, own = len(backbone.model.state_dict()), len(backbone.state_dict())
    assert f"loaded {count} of {own} tensors" in said
    last = backbone.out_indices[-1]
    assert f"outnorm{last}.weight" in said.partition("new: ")[2].partition("not used: ")[0]
    assert "head" in said.partition("not used: ")[2]


@each_family
def test_ours_loads_from_timm_from_training_and_from_a_detector(family, tmp_path):
    model = classifier(family)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    network = {f"network.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": network}, tmp_path / "best.pth")
    for name in ("model.safetensors", "best.pth"):
        backbone = small_backbone(family)
        report = load_pretrained(backbone, str(tmp_path / name))
        assert_filled(backbone, model)
        assert report.new
        assert all(key.startswith("outnorm") for key in report.new)
    torch.nn.init.normal_(backbone.get_parameter(report.new[0]))
    detector = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    detector["neck.weight"] = torch.zeros(1)
    for checkpoint in ({"state_dict": detector}, backbone.state_dict()):
        torch.save(checkpoint, tmp_path / "detector.pth")
        other = small_backbone(family)
        report = load_pretrained(other, str(tmp_path / "detector.pth"))
        assert not report.new
        for key, value in other.state_dict().items():
            assert torch.equal(value, backbone.state_dict()[key]), key


def test_weights_of_a_deeper_or_wider_model_are_refused(tmp_path):
    """Even where every tensor of the backbone is there."""
    file = tmp_path / "other.pth"
    torch.save(classifier("vmamba", depths=(1, 3)).state_dict(), file)
    backbone = small_backbone("vmamba")
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=r"(?s)not one of vmamba_pico.*unexpected .*1\.blocks\.1"):
        load_pretrained(backbone, str(file))
    torch.save(classifier("vmamba", dims=(8, 24)).state_dict(), file)
    with pytest.raises(ValueError, match=r"misshaped .*expected \(.*, got"):
        load_pretrained(backbone, str(file))
    weights = classifier("vmamba").state_dict()
    del weights["stages.0.blocks.0.norm.weight"]
    torch.save(weights, file)
    with pytest.raises(ValueError, match=r"missing model\.stages\.0\.blocks\.0\.norm\.weight"):
        load_pretrained(backbone, str(file))
    torch.save({"layer1.0.conv1.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"missing .*\n.* more$"):
        load_pretrained(backbone, str(file))
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


def test_unreadable_files_are_refused(tmp_path):
    backbone = small_backbone("vmamba")
    with pytest.raises(ValueError, match="no file"):
        load_pretrained(backbone, str(tmp_path / "none.pth"))
    (tmp_path / "half.pth").write_bytes(b"PK")
    torch.save({"model": {}, "hook": print}, tmp_path / "code.pth")
    for name in ("half.pth", "code.pth"):
        with pytest.raises(ValueError, match="damaged, or holds Python objects"):
            load_pretrained(backbone, str(tmp_path / name))
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="expected a state dict, got a list"):
        load_pretrained(backbone, str(tmp_path / "list.pth"))


def test_url_is_downloaded_once_and_like_named_files_stay_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    models = {}
    for folder, width in (("a", 16), ("b", 24)):
        (tmp_path / "served" / folder).mkdir(parents=True)
        models[folder] = classifier("vmamba", dims=(8, width))
        torch.save(models[folder].state_dict(), tmp_path / "served" / folder / "model.pth")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{{}}/model.pth"
        for folder, width in (("a", 16), ("b", 24)):
            backbone = small_backbone("vmamba", dims=(8, width))
            load_pretrained(backbone, url.format(folder))
            assert_filled(backbone, models[folder])
        server.shutdown()
    backbone = small_backbone("vmamba")
    load_pretrained(backbone, url.format("a"))  # the server is gone
    assert_filled(backbone, models["a"])


def test_vim_without_class_token_takes_published_weights(tmp_path):
    """Positions stay those of their patches; another image size resamples them."""
    model = classifier("vim")
    torch.save(model.state_dict(), tmp_path / "vim.pth")
    options = {"class_token": False, "global_pool": "avg"}
    backbone = small_backbone("vim", **options)
    load_pretrained(backbone, str(tmp_path / "vim.pth"))
    middle = model.pos_embed.shape[1] // 2
    patches = torch.cat([model.pos_embed[:, :middle], model.pos_embed[:, middle + 1 :]], dim=1)
    assert torch.equal(backbone.model.pos_embed, patches)
    large = small_backbone("vim", **options, img_size=448)
    load_pretrained(large, str(tmp_path / "vim.pth"))
    assert large.model.pos_embed.shape[1] == 28 * 28
