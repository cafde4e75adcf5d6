"""Pictures of routes."""

from __future__ import annotations

import pytest
import torch

from visionssm.scans import cross_scan, draw, raster

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("routes", [cross_scan((3, 5)), raster((3, 5))[0]])
def test_draws_a_png_and_leaves_nothing_else(tmp_path, routes):
    path = draw(routes, (3, 5), tmp_path / "routes.png")
    assert path.read_bytes().startswith(PNG)
    assert list(tmp_path.iterdir()) == [path]


def test_routes_outside_of_the_grid_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"routes: expected indices in \[-1, 4\)"):
        draw(raster((3, 5)), (2, 2), tmp_path / "routes.png")
    with pytest.raises(ValueError, match="routes: expected shape"):
        draw(torch.zeros(1, 1, 4, dtype=torch.int32), (2, 2), tmp_path / "routes.png")
    assert not list(tmp_path.iterdir())


def test_a_failed_drawing_keeps_the_old_picture(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    path = draw(raster((2, 2)), (2, 2), tmp_path / "routes.png")
    before = path.read_bytes()

    def fail(self, file, **kwargs):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        draw(cross_scan((2, 2)), (2, 2), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
