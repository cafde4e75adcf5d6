"""The scenes of the demos: what is annotated is what is seen, and the bytes are always the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools import make_demo_data as demo_data
from visionssm.training.digits import SPLITS, load_split

COUNTS = {"train": 6, "val": 2, "test": 2}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "scenes"
    demo_data.make_demo_data(folder, COUNTS)
    return folder


def annotations(scenes: Path, split: str) -> dict:
    return json.loads((scenes / "annotations" / f"instances_{split}.json").read_text())


def decode(segmentation: dict) -> np.ndarray:
    """The mask of COCO's uncompressed run lengths."""
    counts = segmentation["counts"]
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(segmentation["size"], order="F")


@pytest.mark.parametrize("split", COUNTS)
def test_boxes_masks_and_label_maps_tell_the_same(scenes, split):
    content = annotations(scenes, split)
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert len(content["images"]) == COUNTS[split]
    for image in content["images"]:
        labels = np.array(Image.open(scenes / f"labels/{split}/{image['id']:06d}.png"))
        pixels = Image.open(scenes / "images" / split / image["file_name"])
        assert pixels.size == (image["width"], image["height"]) == labels.shape[::-1]
        seen = np.zeros_like(labels)
        for found in content["annotations"]:
            if found["image_id"] != image["id"]:
                continue
            mask = decode(found["segmentation"])
            left, top, width, height = found["bbox"]
            rows, columns = np.nonzero(mask)
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
            assert found["area"] == mask.sum()
            assert not seen[mask].any()  # what hides another digit's pixels has them alone
            seen[mask] = 1 + int(names[found["category_id"]])
        assert (seen == labels).all()


def least_area(scenes: int) -> int:
    scans, classes, _ = load_split("train")
    areas = []
    for number in range(scenes):
        scene = demo_data.make_scene(scans, classes, (0, number))
        assert demo_data.DIGITS[0] <= len(scene.classes) <= demo_data.DIGITS[1]
        areas += [(scene.owner == i).sum() for i in range(len(scene.classes))]
    return int(min(areas))


def test_no_digit_is_nearly_hidden(monkeypatch):
    assert least_area(8) > 200
    monkeypatch.setattr(demo_data, "MIN_VISIBLE", 0.0)
    assert least_area(8) < 50


def test_splits_share_no_scan():
    numbers = [set(load_split(split)[2].tolist()) for split in SPLITS]
    assert sum(map(len, numbers)) == len(set.union(*numbers)) == 1797


def test_the_same_bytes_come_again_and_more_scenes_change_none(scenes, tmp_path):
    demo_data.make_demo_data(tmp_path / "again", {**COUNTS, "val": 3})
    for path in scenes.rglob("*.*"):
        again = tmp_path / "again" / path.relative_to(scenes)
        assert (again.read_bytes() == path.read_bytes()) == ("instances_val" not in path.name)


def test_a_folder_is_complete_or_absent(scenes, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="exists: remove it"):
        demo_data.make_demo_data(scenes, COUNTS)
    with pytest.raises(ValueError, match="val=0: expected a positive number"):
        demo_data.make_demo_data(tmp_path / "none", {"train": 1, "val": 0})
    with monkeypatch.context() as patch:
        patch.setattr(demo_data, "annotations", lambda scene: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            demo_data.make_demo_data(tmp_path / "cut", COUNTS)
    assert not (tmp_path / "cut").exists()
    demo_data.make_demo_data(tmp_path / "cut", COUNTS)  # what was left does not disturb
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]
