"""Prune a model: accuracy, speed, a folder that loads back, and pictures of what is kept.

python tools/prune.py vim_small --checkpoint vim_s.pth --keep 0.7 --data imagenet/val --benchmark
"""

import argparse
import ast
from functools import partial
from pathlib import Path

import timm
import torch
from timm.data import create_dataset, create_transform, resolve_data_config
from timm.models import save_for_hf
from torch.utils.data import DataLoader, Subset

import visionssm
from visionssm.analysis.pruning import draw_kept_patches, report_pruning, top1
from visionssm.pruning import IMPORTANCES, calibrate, load_exported, pruning_entry
from visionssm.pruning.protocol import MODES, TIMES

SECONDS = 3.0  # of each of the two timings
PICTURES = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    option = parser.add_argument
    option("model", help="name of a registered model, or folder of an exported one")
    option("--checkpoint", default="", help="weights, ours or official; not with a folder")
    option(
        "--keep", default="0.7", help="rate, name of a published schedule, or {block: rate, ...}"
    )
    option("--target-flops", type=float, help="calibrate the schedule to this share, on --data")
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

    with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.amp):
        run(args)


def run(args: argparse.Namespace) -> None:
    if Path(args.model).is_dir():
        model = visionssm.unprune(load_exported(args.model))
    else:
        weights = {"file": args.checkpoint} if args.checkpoint else None
        model = timm.create_model(args.model, args.checkpoint != "", pretrained_cfg_overlay=weights)
    model = model.to(args.device).eval()
    how = {"importance": args.importance, "mode": args.mode, "time": args.time}
    config = resolve_data_config(model=model)
    loader = None
    if args.data is not None:
        data = create_dataset("", args.data, transform=create_transform(**config))
        loader = DataLoader(data, args.batch_size, num_workers=args.workers)
        print(f"top-1     {top1(model, loader):.2%} unpruned, {len(data)} images")
        every = max(1, len(data) // args.batch_size)
        few = DataLoader(Subset(data, range(0, len(data), every)), args.batch_size)
    keep = args.keep if args.keep.isidentifier() else ast.literal_eval(args.keep)
    if args.target_flops is not None:
        keep = calibrate(model, few, args.target_flops, **how)
    visionssm.prune(model, keep, **how)
    print(model.pruning)
    if loader is not None:
        print(f"top-1     {top1(model, loader):.2%} pruned")
    images = torch.randn(args.batch_size, *config["input_size"], device=args.device)
    prepare = partial(torch.compile, fullgraph=True) if images.is_cuda else lambda model: model
    print(report_pruning(model, images, SECONDS if args.benchmark else 0.0, prepare))
    if args.visualize:
        images = next(iter(few))[0][:PICTURES]
        mean, std = (torch.tensor(config[name]) for name in ("mean", "std"))
        pictures = (images.permute(0, 2, 3, 1) * std + mean).clamp(0, 1)
        print(draw_kept_patches(model, images.to(args.device), pictures, args.visualize))
    if args.out:
        save_for_hf(model, args.out, model_config=pruning_entry(model), safe_serialization=True)
        print(f"{args.out}: visionssm.pruning.load_exported opens it")


if __name__ == "__main__":
    main()
