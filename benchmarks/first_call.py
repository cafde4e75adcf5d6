"""Seconds of the first calls of a model, when no kernel of it has been compiled before.

    python -m benchmarks.first_call
    python -m benchmarks.first_call --models vim_tiny --batch 32

Each model runs in a process of its own, eagerly, with an empty cache of compiled kernels. What any
program pays for a first use of the device is timed apart, and before.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import visionssm  # noqa: F401  registers the models
from visionssm._files import write_atomic

from . import environment, report
from .run import RESULTS

MODELS = ("vmamba_tiny_s1l8", "vim_tiny", "spatial_mamba_tiny", "ssm_efficientvim_m1", "vssd_tiny")
SIZE, BATCH = 224, 32
GOAL = 10.0  # seconds: inference and a training step, each for the first time
CACHES = ("TRITON_CACHE_DIR", "NUMBA_CACHE_DIR")
PARTS = ("device", "inference", "training", "inference_again", "training_again")


def first_calls(model: str, size: int, batch: int, device: str) -> dict[str, float]:
    """Seconds of each of `PARTS`, in this process."""
    torch.set_num_threads(1)
    seconds: dict[str, float] = {}

    def time_part(name: str, call: Any) -> None:
        begin = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds[name] = time.perf_counter() - begin

    def start() -> None:
        """Context, matrix products and convolutions."""
        x = torch.randn(1, 3, size, size, device=device)
        with torch.autocast(device, torch.bfloat16):
            nn.Conv2d(3, 8, 3, device=device)(x).sum().backward()
            nn.Linear(size, 8, device=device)(x).sum().backward()

    time_part("device", start)
    network = timm.create_model(model).to(device)
    images = torch.randn(batch, 3, size, size, device=device)

    @torch.no_grad()
    def infer() -> None:
        network.eval()
        with torch.autocast(device, torch.bfloat16):
            network(images)

    def train() -> None:
        network.train()
        with torch.autocast(device, torch.bfloat16):
            network(images).float().square().mean().backward()

    for suffix in ("", "_again"):
        time_part(f"inference{suffix}", infer)
        time_part(f"training{suffix}", train)
    return seconds


def in_fresh_process(*arguments: Any) -> dict[str, float]:
    """`first_calls` where Triton and Numba have empty caches."""
    before = {name: os.environ.get(name) for name in CACHES}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(dict.fromkeys(CACHES, folder))
        try:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                return pool.submit(first_calls, *arguments).result()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def measure(
    models: Sequence[str], size: int, batch: int, device: str, out: Path | None = None
) -> dict[str, Any]:
    """Time each model; results are written into `out` after each, see `report.stem`.

    Args:
        models: names in timm's registry.
        size: of the images.
        batch: images of a call.
        device: "cuda" or "cpu".
        out: folder of the results; None is benchmarks/results/ and the device's name.

    Returns:
        What the JSON file holds.
    """
    where = torch.device(device)
    out = out or RESULTS / environment.slug(environment.device_name(where))
    rows: list[dict[str, Any]] = []
    facts = {**environment.describe(where), "size": size, "batch": batch}
    results = {"environment": facts, "rows": rows}
    chosen = {"models": models, "size": size, "batch": batch}
    stem = report.stem("first-call", chosen, {"models": MODELS, "size": SIZE, "batch": BATCH})
    for model in models:
        seconds = in_fresh_process(model, size, batch, device)
        rows.append({"model": model, "seconds": seconds})
        print(json.dumps(rows[-1]), flush=True)
        write_atomic(out / f"{stem}.json", (json.dumps(results, indent=1) + "\n").encode())
        write_atomic(out / f"{stem}.md", to_markdown(results).encode())
    return results


def to_markdown(results: dict[str, Any]) -> str:
    """Facts and a table."""
    lines = [
        "| model | device (s) | inference | training step | both | goal | again: inference "
        "| training step |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in results["rows"]:
        device, inference, training, *again = (row["seconds"][part] for part in PARTS)
        lines.append(
            f"| {row['model']} | {device:.2f} | {inference:.2f} | {training:.2f} "
            f"| {inference + training:.2f} | {GOAL:g} | {again[0]:.3f} | {again[1]:.3f} |"
        )
    listed = "\n".join(f"- {name}: {fact}" for name, fact in results["environment"].items())
    return "\n\n".join(["# First calls, nothing compiled before", listed, "\n".join(lines)]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.first_call", description=__doc__.splitlines()[0]
    )
    option = parser.add_argument
    option("--models", nargs="+", default=MODELS, help=f"default: {', '.join(MODELS)}")
    option("--size", type=int, default=SIZE, help="of images; default: %(default)s")
    option("--batch", type=int, default=BATCH, help="default: %(default)s")
    option("--device", default="cuda", help="cuda or cpu; default: %(default)s")
    option("--out", type=Path, help="folder of the results; default: benchmarks/results/DEVICE")
    args = parser.parse_args(argv)
    for name in args.models:
        if not timm.is_model(name):
            parser.error(f"--models: expected names in timm's registry, got {name!r}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: expected a CUDA device, got none; 'cpu' runs here")
    measure(args.models, args.size, args.batch, args.device, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
