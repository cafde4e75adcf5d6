"""`visionssm draw`: a picture, or what is wrong or missing."""

import sys

import pytest

from visionssm import scans
from visionssm.cli.main import main


@pytest.mark.parametrize("scan", scans.list_scans())
def test_every_scan_is_drawn(scan, tmp_path):
    assert main(["draw", scan, str(tmp_path / "routes.png"), "--grid", "3", "5"]) == 0
    assert (tmp_path / "routes.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "message"),
    [(["zigzag"], "'zigzag'"), (["raster", "--grid", "0", "5"], "grid")],
)
def test_bad_input_is_named(args, message, tmp_path, capsys):
    assert main(["draw", args[0], str(tmp_path / "routes.png"), *args[1:]]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["draw", "raster", str(tmp_path / "routes.png")]) == 2
    assert "pip install 'visionssm[train]'" in capsys.readouterr().err
