"""One small VMamba on Fashion-MNIST under many scans, each with several seeds.

    python -m benchmarks.scan_study /usr/share/datasets/fashion-mnist --streams 5

The folder holds the data set's four idx files, compressed or not. All trainings have the same
budget, and the accuracy is that of the last step on the 10,000 test images. First, each scan's
training step is timed alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from visionssm._files import write_atomic
from visionssm.models.vmamba import VMamba
from visionssm.scans import get_scan

from . import environment, report
from .fashion_mnist import (
    CLASSES,
    EAGER_STEPS,
    FashionMNIST,
    Recipe,
    Trainer,
    accuracy,
    take_turns,
)
from .measure import time_call
from .run import RESULTS

# All of four routes that read all channels, and so of as many parameters, but for the last.
SCANS = (
    "cross_scan", "snake", "zigzag", "spiral", "hilbert", "z_order", "window(size=4)",
    "atrous_window(size=4, rate=2)", "atrous", "bidirectional",
)  # fmt: skip
SEEDS = 3
TIMED_SECONDS = 0.3


@dataclass(frozen=True)
class Budget(Recipe):
    """What every training gets."""

    epochs: int = 4
    depths: tuple[int, ...] = (2, 2)
    dims: tuple[int, ...] = (64, 128)


def build(scan: str, budget: Budget) -> VMamba:
    """VMamba on 16 x 16 tokens of 2 x 2 pixels."""
    return VMamba(
        in_chans=1, num_classes=CLASSES, patch_size=2, depths=budget.depths, dims=budget.dims,
        scan=scan,
    )  # fmt: skip


def start(scan: str, seed: int, data: FashionMNIST, budget: Budget) -> Trainer:
    """One training of the study, at its first step."""
    torch.manual_seed(seed)
    return Trainer(build(scan, budget).to(data.train.labels.device), data, budget, seed)


def images_per_s(scan: str, data: FashionMNIST, budget: Budget) -> float:
    """Of training steps, as they are after the first few, with nothing else on the device."""
    long = dataclasses.replace(budget, epochs=10**6)  # the schedule must not end
    trainer = start(scan, 0, data, long)
    while trainer.steps_taken <= EAGER_STEPS:
        trainer.step()
    with torch.cuda.stream(trainer.stream):  # events are recorded where we are
        milliseconds = time_call(trainer.step, data.train.labels.device, TIMED_SECONDS).median
    trainer.finish()
    return budget.batch / (milliseconds / 1e3)


def study(
    folder: Path,
    scans: Sequence[str],
    seeds: int,
    budget: Budget,
    streams: int,
    device: torch.device,
    out: Path | None = None,
) -> dict[str, Any]:
    """Time and train; whenever trainings end the results are written into `out`.

    The files are named by `report.stem`.

    Args:
        folder: of the data set.
        scans: names of scans, with options.
        seeds: trainings of each scan.
        budget: of each training.
        streams: trainings at a time, each on a CUDA stream of its own.
        device: they all share.
        out: folder of the results; None is benchmarks/results/ and the device's name.

    Returns:
        What the JSON file holds.

    Raises:
        ValueError: streams is less than 1.
    """
    if streams < 1:
        raise ValueError(f"streams: expected at least 1, got {streams}")
    begin = time.perf_counter()
    out = out or RESULTS / environment.slug(environment.device_name(device))
    chosen = {"scans": scans, "seeds": seeds, **dataclasses.asdict(budget)}
    defaults = {"scans": SCANS, "seeds": SEEDS, **dataclasses.asdict(Budget())}
    stem = report.stem("scan-study", chosen, defaults)
    data = FashionMNIST(folder, device)
    rows = []
    for scan in scans:
        rate = images_per_s(scan, data, budget)
        parameters = sum(p.numel() for p in build(scan, budget).parameters())
        rows.append(
            {
                "scan": scan,
                "routes": get_scan(scan).num_routes,
                "parameters": parameters,
                "images_per_s": rate,
                "accuracies": {},
            }
        )
        print(f"{scan}: {rate:.0f} images/s", flush=True)
    results = {
        "environment": environment.describe(device),
        "budget": dataclasses.asdict(budget),
        "streams": streams,
        "rows": rows,
    }
    trainings = [(row, seed) for seed in range(seeds) for row in rows]
    for i in range(0, len(trainings), streams):
        together = trainings[i : i + streams]
        trainers = [start(row["scan"], seed, data, budget) for row, seed in together]
        take_turns(trainers)
        for (row, seed), trainer in zip(together, trainers, strict=True):
            row["accuracies"][seed] = accuracy(trainer.model, data)
            print(f"{row['scan']}, seed {seed}: {row['accuracies'][seed]:.2%}", flush=True)
        results["seconds"] = time.perf_counter() - begin
        write_atomic(out / f"{stem}.json", (json.dumps(results, indent=1) + "\n").encode())
        write_atomic(out / f"{stem}.md", to_markdown(results).encode())
        write_atomic(out / f"{stem}.png", to_png(results))
    return results


def percentages(row: dict[str, Any]) -> list[float]:
    """Test accuracies of a row in percent, by seed."""
    return [100 * value for _, value in sorted(row["accuracies"].items())]


def to_markdown(results: dict[str, Any]) -> str:
    """Facts and a table, best mean first."""
    facts = {**results["environment"], **results["budget"], "streams": results["streams"]}
    facts["seconds in all"] = f"{results['seconds']:.0f}"
    listed = "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
    lines = [
        "| scan | routes | parameters | test accuracy (%), mean | standard deviation | by seed "
        "| images/s |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    done = [row for row in results["rows"] if row["accuracies"]]
    for row in sorted(done, key=lambda row: -statistics.mean(percentages(row))):
        found = percentages(row)
        spread = f"{statistics.stdev(found):.2f}" if len(found) > 1 else ""
        seeds = ", ".join(f"{value:.2f}" for value in found)
        lines.append(
            f"| `{row['scan']}` | {row['routes']} | {row['parameters']:,} "
            f"| {statistics.mean(found):.2f} | {spread} | {seeds} | {row['images_per_s']:.0f} |"
        )
    title = "# Scans of one small VMamba on Fashion-MNIST"
    legend = (
        "Streams: trainings at a time. Images/s are of training steps with nothing else on the "
        "device, not compiled, gathering and augmenting the batch included; what follows these is "
        "a CUDA graph on CUDA."
    )
    return "\n\n".join([title, listed, "\n".join(lines), legend]) + "\n"


def to_png(results: dict[str, Any]) -> bytes:
    """A dot a training, a line at the mean of a scan."""
    from matplotlib.figure import Figure

    rows = [row for row in results["rows"] if row["accuracies"]]
    rows.sort(key=lambda row: statistics.mean(percentages(row)))
    figure = Figure(figsize=(7, 1.2 + 0.35 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for y, row in enumerate(rows):
        found = percentages(row)
        axes.plot(found, [y] * len(found), "o", color="C0", alpha=0.6)
        axes.plot(statistics.mean(found), y, "k|", markersize=16)
    axes.set_yticks(range(len(rows)), [row["scan"] for row in rows])
    axes.set(xlabel="test accuracy (%); black: mean", title="Fashion-MNIST, one budget")
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.scan_study", description=__doc__)
    option = parser.add_argument
    option("folder", type=Path, help="of the four idx files of Fashion-MNIST")
    option("--scans", nargs="+", default=SCANS, help=f"default: {', '.join(SCANS)}")
    option("--seeds", type=int, default=SEEDS, help="trainings of each scan; default: %(default)s")
    option("--epochs", type=int, default=Budget.epochs, help="default: %(default)s")
    option("--streams", type=int, default=1, help="trainings at a time; default: %(default)s")
    option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    option("--out", type=Path, help="folder of the results; default: benchmarks/results/DEVICE")
    args = parser.parse_args(argv)
    budget = dataclasses.replace(Budget(), epochs=args.epochs)
    device = torch.device(args.device)
    study(args.folder, args.scans, args.seeds, budget, args.streams, device, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
