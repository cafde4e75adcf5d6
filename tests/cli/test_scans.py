"""`visionssm scans`: pictures, or what is wrong or missing."""

import sys

import pytest

from visionssm.cli.main import main


@pytest.mark.parametrize("scan", ["raster", "atrous(step=3)"])
def test_a_scan_is_drawn(scan, tmp_path):
    assert main(["scans", "draw", scan, "3x5", str(tmp_path / "routes.png")]) == 0
    assert (tmp_path / "routes.png").read_bytes().startswith(b"\x89PNG")


def test_all_scans_are_drawn(tmp_path):
    assert main(["scans", "gallery", str(tmp_path / "all.png"), "--grid", "2x3"]) == 0
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["draw", "zig", "3x5"], "'zig'"),
        (["draw", "raster", "0x5"], "grid: expected"),
        (["draw", "raster", "5"], "grid: expected height x width as 14x14, got '5'"),
        (["draw", "raster", "5x-1"], "grid: expected height x width as 14x14, got '5x-1'"),
        (["gallery", "--grid", "4x4x4"], "grid: expected height x width"),
    ],
)
def test_bad_input_is_named(args, message, tmp_path, capsys):
    assert main(["scans", *args, str(tmp_path / "routes.png")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_named(tmp_path, capsys):
    file = tmp_path / "no_such_folder" / "routes.png"
    assert main(["scans", "draw", "raster", "3x5", str(file)]) == 2
    assert f"No such file or directory: '{file}" in capsys.readouterr().err


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["scans", "draw", "raster", "3x5", str(tmp_path / "routes.png")]) == 2
    assert "pip install 'visionssm[train]'" in capsys.readouterr().err
