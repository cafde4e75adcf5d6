"""`visionssm list` and `visionssm info`."""

import pytest
import timm
import torch

from visionssm import list_models
from visionssm.analysis.flops import count_flops
from visionssm.cli.main import main


def test_list_has_a_line_a_model(capsys):
    assert main(["list"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert "published top-1" in header
    assert [line.split()[0] for line in lines] == list_models()


def test_list_shows_parameters_input_size_and_top1(capsys):
    assert main(["list", "vmamba_tiny_s1l8"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split() == ["vmamba_tiny_s1l8", "30.25", "M", "3x224x224", "82.6", "%"]


def test_list_without_a_match_is_an_error(capsys):
    assert main(["list", "resnet*"]) == 2
    assert "no model matches 'resnet*'" in capsys.readouterr().err


def info(capsys, *args):
    assert main(["info", *args]) == 0
    return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())


def test_info_names_cost_weights_and_licence(capsys):
    shown = info(capsys, "vmamba_tiny_s1l8")
    assert shown["parameters"] == "30.25 M (30,249,064)"
    assert "multiply-add counted as 2" in shown["FLOPs"]
    assert shown["weights"].startswith("https://github.com/MzeroMiko/VMamba/releases/")
    assert shown["licence"] == "mit"
    assert shown["top-1"].startswith("82.6 % on ImageNet-1K, published: https://")


def test_info_counts_at_the_size_asked_for(capsys):
    shown = info(capsys, "vmamba_pico", "--input-size", "1", "64", "96")
    assert "one 1 x 64 x 96 image" in shown["FLOPs"]
    assert shown["top-1"] == "nothing published"
    assert shown["weights"] == "none"


def test_info_resizes_models_that_are_built_for_one_size(capsys):
    shown = info(capsys, "vim_tiny", "--input-size", "3", "256", "192")
    with torch.device("meta"):
        flops = count_flops(timm.create_model("vim_tiny", img_size=(256, 192)), (3, 256, 192))
    assert shown["FLOPs"].startswith(f"{flops / 1e9:.2f} G for one 3 x 256 x 192 image")


@pytest.mark.parametrize(
    ("name", "top1", "file"),
    [
        ("vssd_tiny", "83.6 %", "vssd_tiny_best_ema.pth"),
        ("vssd_tiny.in1k", "83.6 %", "vssd_tiny_best_ema.pth"),
        ("vssd_tiny.mesa_in1k", "84.1 %", "vssd_tiny_e300_with_mesa.pth"),
    ],
)
def test_info_of_each_of_the_weights(capsys, name, top1, file):
    shown = info(capsys, name)
    assert shown["model"] == name
    assert shown["top-1"].startswith(top1)
    assert shown["weights"].endswith(file)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["vssd_tiny.mesa_in22k"], "did you mean vssd_tiny.mesa_in1k"),
        (["vim_tiny", "--input-size", "3", "8", "8"], "expected at least 16 pixels"),
        (["vmamba_tiny_s118"], "did you mean vmamba_tiny_s1l8"),
        (["resnet50"], "no model 'resnet50'"),
        (["vmamba_pico", "--input-size", "3", "0", "8"], "expected positive numbers"),
    ],
)
def test_info_says_what_is_wrong(capsys, args, message):
    assert main(["info", *args]) == 2
    assert message in capsys.readouterr().err
