"""The README holds what it says: Python runs, commands exist, shown output is the real one."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import timm
import torch

from visionssm.cli.main import main
from visionssm.models.vmamba import VMamba, official_layout

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
BLOCKS = BLOCK.findall((ROOT / "README.md").read_text())
CARDS = sorted((ROOT / "model_cards").glob("*.md"))


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def snippets() -> list[str]:
    """Python of the README and of the model cards."""
    cards = [block for card in CARDS for block in BLOCK.findall(card.read_text())]
    return [text for name, text in BLOCKS + cards if name == "python"]


def commands() -> list[list[str]]:
    return [
        shlex.split(line, comments=True) for text in blocks("bash") for line in text.splitlines()
    ]


def save_official(model: VMamba, path: Path) -> None:
    """Save a model's random weights as the official code would."""
    names = official_layout(model).names
    torch.save({"model": {names[k]: v for k, v in model.state_dict().items()}}, path)


@pytest.mark.parametrize("code", snippets())
def test_python_runs(code, tmp_path, monkeypatch):
    model = VMamba(depths=(1, 1, 2, 1), dims=(32, 64, 128, 256))
    save_official(model, tmp_path / "vmamba_official.pth")  # the file that the README loads
    monkeypatch.chdir(tmp_path)
    exec(code, {})


@pytest.mark.parametrize("session", blocks("console"))
def test_shown_output_is_the_real_one(session, capsys):
    command, _, expected = session.partition("\n")
    program, *arguments = shlex.split(command.removeprefix("$ "))
    assert program == "visionssm"
    assert main(arguments) == 0
    assert capsys.readouterr().out == expected


def test_convert_line(tmp_path, monkeypatch):
    save_official(timm.create_model("vmamba_pico"), tmp_path / "vmamba_official.pth")
    monkeypatch.chdir(tmp_path)
    line = re.search(r"`visionssm (convert .*?)`", (ROOT / "README.md").read_text())
    assert main(shlex.split(line[1])) == 0


@pytest.mark.parametrize("command", [c for c in commands() if c[0] == "visionssm"], ids=" ".join)
def test_visionssm_commands_run(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if command[1] == "predict":  # needs the training that the README describes before it
        with pytest.raises(SystemExit, match="0"):
            main(["predict", "--help"])
    else:
        assert main(command[1:]) == 0


@pytest.mark.parametrize("command", [c for c in commands() if c[0] == "make"], ids=" ".join)
def test_make_targets_exist(command):
    assert re.search(rf"^{command[1]}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("command", [c for c in commands() if c[0] == "pip"], ids=" ".join)
def test_extras_exist(command):
    package, _, extra = command[-1].rstrip("]").partition("[")
    assert package == "visionssm"
    assert not extra or re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.M)


def tool_commands() -> list[list[str]]:
    """Commands that run a file of tools/, from the file on."""
    return [c[i:] for c in commands() for i, word in enumerate(c) if word.startswith("tools/")]


@pytest.mark.parametrize("tool", sorted({command[0] for command in tool_commands()}))
def test_tools_know_the_options_and_configs_exist(tool, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [tool, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(ROOT / tool), run_name="__main__")
    shown = capsys.readouterr().out
    for _, config, *rest in (command for command in tool_commands() if command[0] == tool):
        assert (ROOT / config).is_file() or timm.is_model(config)
        assert all(option in shown for option in rest if option.startswith("--"))


def test_every_kind_of_block_is_tested():
    assert {name for name, _ in BLOCKS} <= {"python", "console", "bash", "text"}
    known = {"visionssm", "make", "pip", "python", "torchrun"}
    assert {command[0] for command in commands()} <= known
