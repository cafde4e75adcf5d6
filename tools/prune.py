"""Prune a model: accuracy, speed, a folder that loads back, and pictures of what is kept.

python tools/prune.py vim_small --checkpoint vim_s.pth --keep 0.7 --data imagenet/val --benchmark
"""

import argparse
import ast
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_dataset, create_transform, resolve_data_config
from torch.utils.data import DataLoader, Dataset, Subset

from visionssm.analysis.pruning import draw_kept_patches, report_pruning, top1
from visionssm.pruning import (
    IMPORTANCES,
    PUBLISHED_SCHEDULES,
    calibrate,
    load_exported,
    prune,
    save_exported,
    unprune,
)
from visionssm.pruning.protocol import MODES, TIMES

SECONDS = 3.0  # of each of the two timings
PICTURES = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    option = parser.add_argument
    option("model", help="name of a registered model, or folder of an exported one")
    option("--checkpoint", default="", help="weights, ours or official; not with a folder")
    schedule = parser.add_mutually_exclusive_group().add_argument
    schedule(
        "--keep",
        type=parse_keep,
        default=0.7,
        help="rate, name of a published schedule, or {block: rate, ...}; default: %(default)s",
    )
    schedule("--target-flops", type=float, help="find a schedule for this share, on --data")
    option("--importance", default="scan", choices=list(IMPORTANCES))
    option("--mode", default="align", choices=MODES)
    option("--time", default="gap_power", choices=TIMES)
    option("--data", help="folder with one sub-folder of images a class")
    option("--benchmark", action="store_true", help="time it (on CUDA compiled) with and without")
    option("--amp", action="store_true", help="run in bfloat16 autocast")
    option("--visualize", metavar="PNG", help="draw what is kept of the first images of --data")
    option("--out", help="write model.safetensors and config.json into this folder")
    option("--batch-size", type=int, default=64)
    option("--workers", type=int, default=0, help="processes that read --data")
    option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.data is None and (args.visualize or args.target_flops is not None):
        parser.error("--visualize and --target-flops need --data")

    try:
        with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.amp):
            run(args)
    except ValueError as error:
        parser.error(str(error))


def parse_keep(text: str) -> Any:
    """What the user wrote, as `prune` takes it."""
    if text in PUBLISHED_SCHEDULES:
        return text
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        known = ", ".join(PUBLISHED_SCHEDULES)
        message = f"expected a rate, {{block: rate, ...}} or one of {known}, got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def load_model(name: str, checkpoint: str) -> Any:
    """A registered model or an exported one, not pruned; ValueError if it cannot be had."""
    if Path(name).is_dir():
        if checkpoint:
            raise ValueError(f"--checkpoint: {name!r} has weights of its own, got {checkpoint!r}")
        return unprune(load_exported(name))
    if checkpoint and not Path(checkpoint).is_file():
        raise ValueError(f"--checkpoint: no file {checkpoint!r}")
    weights = {"file": checkpoint} if checkpoint else None
    try:
        return timm.create_model(name, checkpoint != "", pretrained_cfg_overlay=weights)
    except RuntimeError as error:  # timm's, of unknown names and of weights that do not fit
        raise ValueError(f"model: {error}") from error


def load_images(folder: str, config: dict[str, Any], num_classes: int) -> Dataset:
    """Labelled images for a model of so many classes; ValueError if the folder has others."""
    if not Path(folder).is_dir():
        raise ValueError(f"--data: no folder {folder!r}")
    images = create_dataset("", folder, transform=create_transform(**config))
    found = len(images.reader.class_to_idx)
    if found != num_classes:
        raise ValueError(f"--data: expected the model's {num_classes} classes, got {found}")
    return images


def run(args: argparse.Namespace) -> None:
    model = load_model(args.model, args.checkpoint).to(args.device).eval()
    how = {"importance": args.importance, "mode": args.mode, "time": args.time}
    prune(model, args.keep, **how)  # what cannot be is refused before any image is read
    config = resolve_data_config(model=model)
    if args.data is not None:
        data = load_images(args.data, config, model.num_classes)
        loader = DataLoader(data, args.batch_size, num_workers=args.workers)
        every = max(1, len(data) // args.batch_size)
        few = DataLoader(Subset(data, range(0, len(data), every)), args.batch_size)
        if args.target_flops is not None:
            prune(model, calibrate(model, few, args.target_flops, **how), **how)
    print(model.pruning)
    if args.data is not None:
        pruning = model.pruning
        print(f"top-1     {top1(unprune(model), loader):.2%} unpruned, {len(data)} images")
        print(f"top-1     {top1(pruning.apply(model), loader):.2%} pruned")
    images = torch.randn(args.batch_size, *config["input_size"], device=args.device)
    prepare = partial(torch.compile, fullgraph=True) if images.is_cuda else lambda model: model
    print(report_pruning(model, images, SECONDS if args.benchmark else 0.0, prepare))
    if args.visualize:
        images = next(iter(few))[0][:PICTURES]
        mean, std = (torch.tensor(config[name]) for name in ("mean", "std"))
        pictures = (images.permute(0, 2, 3, 1) * std + mean).clamp(0, 1)
        print(draw_kept_patches(model, images.to(args.device), pictures, args.visualize))
    if args.out:
        save_exported(model, args.out)
        print(f"{args.out}: visionssm.pruning.load_exported opens it")


if __name__ == "__main__":
    main()
