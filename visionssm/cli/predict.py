"""`visionssm predict`: classify images, or held-out test images of a run, with a saved model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

from visionssm.pruning import load_exported


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("predict", help="classify images with a trained model")
    parser.add_argument(
        "model", help="work directory of a run, or any folder of model.safetensors and config.json"
    )
    parser.add_argument("images", nargs="*", help="image files")
    parser.add_argument(
        "--samples",
        type=int,
        default=12,
        help="without images: how many of the run's held-out test images (default 12)",
    )


def run(args: argparse.Namespace) -> int:
    """Print one line an image; 0 if every file could be read, else 1.

    Raises:
        ValueError: the folder holds no model or, without images, no run; or samples is less than 1.
    """
    if args.samples < 1:
        raise ValueError(f"--samples: expected at least 1, got {args.samples}")
    network = load_exported(args.model)
    classes = network.pretrained_cfg.get("label_names") or range(network.num_classes)
    if args.images:
        return _predict_files(network, classes, args.images)
    _predict_held_out(network, classes, Path(args.model), args.samples)
    return 0


@torch.inference_mode()
def classify(network: nn.Module, inputs: Tensor) -> tuple[list[float], list[int]]:
    """Return the best class's probability and index for each of (b, 3, h, w) images."""
    scores, indices = torch.softmax(network(inputs).float(), dim=-1).max(-1)
    return scores.tolist(), indices.tolist()


def _predict_files(network: nn.Module, classes, files: list[str]) -> int:
    transform = create_transform(**resolve_data_config(model=network))
    status = 0
    for file in files:
        try:
            image = Image.open(file).convert("RGB")
        except OSError as error:
            print(f"{file}: cannot be read: {error}")
            status = 1
            continue
        (score,), (index,) = classify(network, transform(image)[None])
        print(f"{file}: {classes[index]}  {score:6.1%}")
    return status


def _predict_held_out(network: nn.Module, classes, work_dir: Path, samples: int) -> None:
    right = total = 0
    for item in _held_out(work_dir, samples):
        (score,), (index,) = classify(network, item["inputs"][None])
        verdict = "right" if index == item["targets"] else "WRONG"
        right, total = right + (index == item["targets"]), total + 1
        print(
            f"{verdict}  predicted {classes[index]} ({score:6.1%})  truth "
            f"{classes[item['targets']]}  {item['paths']}"
        )
    print(f"{right} of {total} held-out test images right")


def _held_out(work_dir: Path, samples: int) -> Iterator[dict]:
    """Yield items spread evenly over the test set that `summary.json` names.

    The description is data, not code: only our own dataset classes are built from it.
    """
    from ..training import FashionMNIST, HandwrittenDigits, ImageFiles

    path = work_dir / "summary.json"
    if not path.is_file():
        raise ValueError(f"{str(path)!r} not found: name image files, or a run's work directory")
    config = json.loads(path.read_text()).get("test_dataset", {})
    datasets = {kind.__name__: kind for kind in (HandwrittenDigits, FashionMNIST, ImageFiles)}
    kind = config.pop("type", None)
    if kind not in datasets:
        raise ValueError(f"{str(path)!r}: test_dataset of type {kind!r}, expected {list(datasets)}")
    dataset = datasets[kind](**config)
    samples = min(samples, len(dataset))
    for number in range(samples):
        yield dataset[number * len(dataset) // samples]
