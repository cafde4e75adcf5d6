"""What the tools say to arguments that make no sense: one message, before any work is done."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import timm
from PIL import Image

from visionssm.analysis import pruning as analysis
from visionssm.pruning import save_exported

ROOT = Path(__file__).parents[1]
DEMO = str(ROOT / "configs/classification/vmamba_digits_demo.py")


@pytest.fixture
def refusal(monkeypatch, capsys):
    """What a tool with these arguments prints on stderr when it ends with status 2."""

    def run(tool, *arguments):
        monkeypatch.setattr(sys, "argv", [tool, *arguments])
        with pytest.raises(SystemExit, match="2"):
            runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
        return capsys.readouterr().err

    return run


@pytest.fixture
def two_classes(tmp_path):
    for name in ("black", "white"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 40), name).save(tmp_path / name / "0.png")
    return str(tmp_path)


def test_a_config_that_is_not_there(refusal):
    for tool, more in (("train.py", []), ("test.py", ["best.pth"])):
        assert f"{tool}: error: config 'no.py': no such file" in refusal(tool, "no.py", *more)


def test_a_checkpoint_that_is_not_there(refusal, tmp_path):
    shown = refusal("test.py", DEMO, "no.pth", "--work-dir", str(tmp_path))
    assert "test.py: error: checkpoint" in shown
    assert "'no.pth'" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_model"], "model: Unknown model (no_such_model)"),
        (["ssm_efficientvim_m1"], "model: EfficientViM cannot be pruned"),
        (["vim_tiny", "--keep", "70%"], "expected a rate, {block: rate, ...} or one of top_vim_"),
        (["vim_tiny", "--keep", "{40: 0.5}"], "after the blocks 0 to 22 of this model, got [40]"),
        (["vim_tiny", "--checkpoint", "no.pth"], "--checkpoint: no file 'no.pth'"),
        (
            ["vim_tiny", "--keep", "0.5", "--target-flops", "0.5"],
            "not allowed with argument --keep",
        ),
        (["vim_tiny", "--visualize", "kept.png"], "--visualize and --target-flops need --data"),
        (["vim_tiny"], "--data: expected the model's 1000 classes, got 2"),
    ],
)
def test_pruning_that_makes_no_sense(refusal, monkeypatch, two_classes, arguments, message):
    monkeypatch.setattr(analysis, "top1", None)  # calling it is an error of another kind
    data = [] if "--visualize" in arguments else ["--data", two_classes]
    assert message in refusal("prune.py", *arguments, *data, "--device", "cpu")


def test_images_to_prune_by_that_are_not_there(refusal):
    assert "--data: no folder 'nowhere'" in refusal("prune.py", "vim_tiny", "--data", "nowhere")


def test_weights_beside_a_folder_of_weights(refusal, tmp_path):
    save_exported(timm.create_model("vim_tiny", depth=1, embed_dim=16), tmp_path)
    shown = refusal("prune.py", str(tmp_path), "--checkpoint", "other.pth")
    assert "has weights of its own, got 'other.pth'" in shown
