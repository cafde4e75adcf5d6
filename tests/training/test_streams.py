"""webdataset shards give what the folder gives, and a resumed run repeats their order."""

import io
import json
import tarfile

import pytest
import torch
from torch.utils.data import DataLoader

from visionssm.training import ImageFiles, ImageStream

from .conftest import CLASSES, EVALUATION
from .helpers import run


@pytest.fixture(scope="module")
def shards(image_root, tmp_path_factory):
    """The training folder as two shards of twelve, with timm's `_info.json`."""
    root = tmp_path_factory.mktemp("shards")
    paths = sorted((image_root / "train").rglob("*.png"))
    for shard in range(2):
        with tarfile.open(root / f"train-{shard}.tar", "w") as archive:
            for number, path in enumerate(paths[shard::2]):
                label = root / "label"
                label.write_text(str(CLASSES.index(path.parent.name)))
                archive.add(path, f"{shard}{number:03d}.png")
                archive.add(label, f"{shard}{number:03d}.cls")
    names = ["train-0.tar", "train-1.tar"]
    split = {"name": "train", "num_samples": 24, "filenames": names, "shard_lengths": [12, 12]}
    (root / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    return root


def stream(root, **kwargs):
    settings = {"num_classes": 3, "batch_size": 4, "num_workers": 1, "is_training": False}
    return ImageStream(str(root), "train", EVALUATION, **{**settings, **kwargs})


def test_stream_gives_the_images_and_labels_of_the_folder(shards, image_root):
    def multiset(items):
        return sorted((item["inputs"].sum().item(), int(item["targets"])) for item in items)

    streamed = DataLoader(stream(shards), batch_size=None, num_workers=1)
    assert multiset(streamed) == multiset(ImageFiles(str(image_root), "train", EVALUATION))


@pytest.fixture
def damaged_shard(shards, tmp_path):
    """One shard whose first two images are no images."""
    with tarfile.open(shards / "train-0.tar") as whole:
        with tarfile.open(tmp_path / "train-0.tar", "w") as damaged:
            for member in whole:
                data = whole.extractfile(member).read()
                if member.name in ("0000.png", "0001.png"):
                    data = data[:20]
                    member.size = len(data)
                damaged.addfile(member, io.BytesIO(data))
    split = {"name": "train", "num_samples": 12, "filenames": ["train-0.tar"]}
    split["shard_lengths"] = [12]
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    return tmp_path


def test_undecodable_samples_are_counted_and_left_out(damaged_shard):
    dataset = stream(damaged_shard)
    items = list(DataLoader(dataset, batch_size=None, num_workers=1))
    assert len(items) == 10
    assert dataset.count_corrupt() == 2
    assert items[0]["paths"].endswith("train-0.tar/0002")


def test_too_many_undecodable_samples_stop_the_run(damaged_shard):
    dataset = stream(damaged_shard, max_corrupt=1)
    with pytest.raises(ValueError, match=r"2 images.*max_corrupt=1.*train-0\.tar/0001"):
        list(DataLoader(dataset, batch_size=None, num_workers=1))


def test_stream_without_workers_is_refused(shards):
    with pytest.raises(ValueError, match="num_workers=0"):
        stream(shards, num_workers=0)
    with pytest.raises(ValueError, match="num_workers=0 in the dataloader"):
        next(iter(stream(shards)))


def test_resumed_run_repeats_the_order_of_an_uninterrupted_one(shards, tiny_config, tmp_path):
    part = tiny_config.train_dataloader
    settings = {"num_classes": 3, "batch_size": 4, "num_workers": 2, "is_training": True}
    transform = part.dataset.transform
    part.dataset = {
        "type": "ImageStream",
        "root": str(shards),
        "split": "train",
        "transform": transform,
        **settings,
    }
    part.update(sampler=None, num_workers=2)
    _, losses = run(tiny_config, work_dir=str(tmp_path / "whole"))
    _, first = run(tiny_config, work_dir=str(tmp_path / "cut"), record={"stop": 8})
    _, rest = run(tiny_config, resume=True, record={"stop": None})
    assert len(losses) == 18
    assert first[:6] + rest == losses
    assert len(set(losses)) == 18
    assert torch.isfinite(torch.tensor(losses)).all()
