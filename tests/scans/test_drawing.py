"""Pictures of routes."""

from __future__ import annotations

import pytest
import torch

from visionssm.scans import cross_scan, draw, gallery, list_scans, raster

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("routes", [cross_scan((3, 5)), raster((3, 5))[0]])
def test_draws_a_png_and_leaves_nothing_else(tmp_path, routes):
    path = draw(routes, (3, 5), tmp_path / "routes.png")
    assert path.read_bytes().startswith(PNG)
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def titles(monkeypatch):
    """Titles of the panels of the figure that is saved, row by row; None for a panel left out."""
    from matplotlib.figure import Figure

    found: list[str | None] = []

    def record(self, *args, **kwargs):
        found.extend(axis.get_title() if axis.axison else None for axis in self.axes)
        return save(self, *args, **kwargs)

    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", record)
    return found


def test_four_routes_stand_in_a_row(tmp_path, titles):
    draw(cross_scan((2, 2)).repeat(2, 1)[:6], (2, 2), tmp_path / "routes.png")
    assert titles == [f"route {k}" for k in range(6)] + [None] * 2


def test_the_gallery_holds_every_scan(tmp_path, titles):
    path = gallery(tmp_path / "all.png", (2, 3))
    assert path.read_bytes().startswith(PNG)
    assert set(list_scans()) <= set(titles)
    at = titles.index("bidirectional")
    assert titles[at : at + 4] == ["bidirectional", "2 of 2", None, None]
    at = titles.index("multi_head")
    assert titles[at : at + 4] == ["multi_head", "2 of 16", "3 of 16", "4 of 16"]


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
