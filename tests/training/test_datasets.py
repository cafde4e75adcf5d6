"""Folders, tar files and digits become the same kind of item; broken images do not stop a run."""

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from visionssm.training import (
    FashionMNIST,
    HandwrittenDigits,
    ImageFiles,
    corrupt,
    fashion_mnist,
    train,
)

from .conftest import CLASSES, EVALUATION


def files(root, split="val", **kwargs):
    return ImageFiles(str(root), split, EVALUATION, **kwargs)


@pytest.fixture
def damaged_root(image_root, tmp_path):
    """A private copy of the validation folder, for breaking images in it."""
    shutil.copytree(image_root / "val", tmp_path / "val")
    return tmp_path


def encoded(kind):
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, kind)
    return stream.getvalue()


DAMAGE = {
    "empty": b"",
    "not an image": b"hello" * 100,
    "truncated jpeg": encoded("JPEG")[:800],
    "truncated png": encoded("PNG")[:5000],
    "png with a broken chunk": encoded("PNG")[:60] + bytes(200) + encoded("PNG")[260:],
    "png header only": encoded("PNG")[:30],
}


def test_folder_gives_images_labels_paths_and_class_names(image_root):
    dataset = files(image_root)
    item = dataset[7]
    assert len(dataset) == 15
    assert dataset.metainfo["classes"] == CLASSES
    assert item["inputs"].shape == (3, 32, 32)
    assert item["inputs"].dtype == torch.float32
    assert item["targets"] == 1
    assert item["paths"] == str(image_root / "val" / "dog" / "02.png")


def test_tar_gives_what_the_folder_gives(image_root, tmp_path):
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        archive.add(image_root / "val", arcname=".")
    folder, archive = files(image_root), files(tmp_path / "val.tar")
    assert archive.metainfo == folder.metainfo
    for one, other in zip(folder, archive, strict=True):
        assert torch.equal(one["inputs"], other["inputs"])
        assert one["targets"] == other["targets"]


def test_class_map_sets_the_labels(image_root):
    dataset = files(image_root, class_map={"owl": 0, "dog": 1, "cat": 2})
    assert {item["paths"].split("/")[-2]: item["targets"] for item in dataset} == {
        "owl": 0,
        "dog": 1,
        "cat": 2,
    }


def test_classes_that_share_a_label_are_one(image_root):
    dataset = files(image_root, class_map={"cat": 0, "dog": 0, "owl": 1})
    assert dataset.metainfo["classes"] == ("cat/dog", "owl")
    assert {item["targets"] for item in dataset} == {0, 1}


def test_labels_with_a_gap_are_refused(image_root):
    with pytest.raises(ValueError, match=r"class_map: expected labels .* got \[0, 2\]"):
        files(image_root, class_map={"cat": 0, "dog": 0, "owl": 2})


def test_missing_root_is_refused_at_the_door():
    with pytest.raises(ValueError, match=r"root='/nowhere'.*existing image folder"):
        files("/nowhere")


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_unreadable_image_is_logged_by_path_counted_and_replaced(damaged_root, damage, monkeypatch):
    logged = []
    monkeypatch.setattr(corrupt, "print_log", lambda message, *_, **__: logged.append(message))
    broken = damaged_root / "val" / "dog" / "00.png"
    broken.write_bytes(damage)
    dataset = files(damaged_root)
    for _ in range(2):
        assert dataset[5]["paths"] == str(broken.with_name("01.png"))
    assert dataset.count_corrupt() == 1
    assert len(logged) == 1
    assert f"skipped unreadable image {broken}: " in logged[0]


def test_too_many_unreadable_images_are_an_error_that_names_the_last(damaged_root):
    for number in range(3):
        (damaged_root / "val" / "cat" / f"{number:02d}.png").write_bytes(b"")
    dataset = files(damaged_root, max_corrupt=2)
    with pytest.raises(ValueError, match=r"3 images.*max_corrupt=2.*cat/02\.png"):
        dataset[0]


def test_a_folder_without_any_readable_image_ends_in_an_error(damaged_root):
    for path in (damaged_root / "val").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"15 images are unreadable .* never all"):
        files(damaged_root)[3]


def test_all_workers_share_one_count(damaged_root):
    for name in CLASSES:
        (damaged_root / "val" / name / "04.png").write_bytes(b"")
    dataset = files(damaged_root)
    assert len(list(DataLoader(dataset, batch_size=5, num_workers=3))) == 3
    assert dataset.count_corrupt() == 3


def test_a_run_goes_on_and_its_log_names_the_unreadable_file(tiny_config, damaged_root):
    """The workers that meet the file write to the log of the run."""
    broken = damaged_root / "val" / "owl" / "01.png"
    broken.write_bytes(b"")
    tiny_config.train_dataloader.dataset.update(root=str(damaged_root), split="val")
    tiny_config.train_dataloader.num_workers = 2
    tiny_config.train_cfg.max_epochs = 1
    train(tiny_config)
    logs = "".join(log.read_text() for log in Path(tiny_config.work_dir).glob("*/*.log"))
    assert logs.count(f"skipped unreadable image {broken}: ") == 1


def test_digits_are_split_into_disjoint_stratified_parts():
    parts = {split: HandwrittenDigits(split, EVALUATION) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {
        "train": 1257,
        "val": 180,
        "test": 360,
    }
    assert len(np.unique(np.concatenate([part.indices for part in parts.values()]))) == 1797
    for part in parts.values():
        share = np.bincount(part.labels) / len(part)
        assert abs(share - 0.1).max() < 0.01


def test_digit_scan_keeps_its_grey_values():
    dataset = HandwrittenDigits("test", EVALUATION)
    image, target = dataset.load(0)
    assert image.size == (8, 8)
    assert np.asarray(image).max() == 255
    assert dataset[0]["targets"] == target
    assert dataset[0]["paths"] == f"sklearn.datasets.load_digits#{dataset.indices[0]}"


def test_unknown_digit_split_is_refused():
    with pytest.raises(ValueError, match="split='dev'"):
        HandwrittenDigits("dev", EVALUATION)


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(header + values.tobytes())


def test_fashion_mnist_holds_pictures_out(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "NUM_VAL", 2)
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 7), ("t10k", 3)):
        pixels = np.arange(count, dtype=np.uint8)[:, None, None] + np.zeros((1, 28, 28), np.uint8)
        write_idx(raw / f"{prefix}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8))
    splits = {s: FashionMNIST(str(tmp_path), s, EVALUATION) for s in ("train", "val", "test")}
    assert {s: len(d) for s, d in splits.items()} == {"train": 5, "val": 2, "test": 3}
    assert [splits["val"][i]["targets"] for i in range(2)] == [5, 6]
    assert splits["val"].path(1) == f"{raw}/train#6"
    assert splits["test"].path(1) == f"{raw}/t10k#1"
    image, label = splits["val"].load(1)
    assert (image.mode, image.size, image.getpixel((3, 3)), label) == (
        "RGB",
        (28, 28),
        (6, 6, 6),
        6,
    )
    assert splits["test"].metainfo["classes"][0] == "T-shirt/top"
    with pytest.raises(ValueError, match="split='dev': expected one of"):
        FashionMNIST(str(tmp_path), "dev", EVALUATION)
    with pytest.raises(ValueError, match=r"root='nowhere': expected Fashion-MNIST's files"):
        FashionMNIST("nowhere", "train", EVALUATION)
