"""One small VMamba on Fashion-MNIST under many scans, each with several seeds.

    python -m benchmarks.scan_study /usr/share/datasets/fashion-mnist --jobs 8

The folder holds the data set's four idx files, compressed or not; Debian's package
dataset-fashion-mnist puts them there. All trainings have the same budget, and the accuracy is that
of the last step on the 10,000 test images. First, each scan's training step is timed alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gzip
import io
import json
import multiprocessing
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay
from torch import Tensor

from visionssm.models.vmamba import VMamba
from visionssm.scans import get_scan

from . import environment
from .measure import time_call
from .report import write_atomic
from .run import RESULTS

# All of four routes that read all channels, and so of as many parameters, but for the last.
SCANS = (
    "cross_scan", "snake", "zigzag", "spiral", "hilbert", "z_order", "window(size=4)",
    "atrous_window(size=4, rate=2)", "atrous", "bidirectional",
)  # fmt: skip
CLASSES = 10
MARGIN = 2  # black pixels around an image, which make it 32 x 32, and the most that it is shifted
TIMED_SECONDS = 1.0

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Budget:
    """What every training gets."""

    epochs: int = 10
    batch: int = 250
    lr: float = 4e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    depths: tuple[int, ...] = (2, 2)
    dims: tuple[int, ...] = (64, 128)


@dataclass(frozen=True)
class Training:
    """One training of the study."""

    folder: Path
    scan: str
    seed: int
    budget: Budget
    device: str


class Split:
    """Images (n, side, side) uint8 and labels (n,) on a device, one tensor each."""

    def __init__(self, folder: Path, prefix: str, device: torch.device):
        images = torch.from_numpy(read_idx(folder, f"{prefix}-images-idx3-ubyte"))
        labels = torch.from_numpy(read_idx(folder, f"{prefix}-labels-idx1-ubyte"))
        self.images = F.pad(images.to(device), [MARGIN] * 4)
        self.labels = labels.long().to(device)

    @functools.cached_property
    def statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of the pixels."""
        pixels = self.images.float()
        return float(pixels.mean()), float(pixels.std())


def read_idx(folder: Path, name: str) -> np.ndarray:
    """Array of bytes in an idx file, ``name`` or ``name.gz``.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: the file is not of unsigned bytes, or shorter or longer than its header says.
    """
    plain, packed = folder / name, folder / f"{name}.gz"
    data = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    zeros, dtype, axes = struct.unpack_from(">HBB", data)
    if (zeros, dtype) != (0, 8):
        raise ValueError(f"{folder / name}: expected an idx file of bytes, got {data[:4]!r}")
    shape = struct.unpack_from(f">{axes}I", data, 4)
    pixels = np.frombuffer(bytearray(data), dtype=np.uint8, offset=4 + 4 * axes)
    if len(pixels) != np.prod(shape):
        raise ValueError(f"{folder / name}: expected {shape} bytes, got {len(pixels)}")
    return pixels.reshape(shape)


def build(scan: str, budget: Budget) -> VMamba:
    """VMamba on 16 x 16 tokens of 2 x 2 pixels."""
    return VMamba(
        in_chans=1, num_classes=CLASSES, patch_size=2, depths=budget.depths, dims=budget.dims,
        scan=scan,
    )  # fmt: skip


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to `MARGIN` pixels, each image its own way, and mirror half of them."""
    b, side, _ = images.shape
    device = images.device
    shifts = torch.randint(2 * MARGIN + 1, (2, b, 1), generator=generator, device=device)
    mirrored = torch.randint(2, (b, 1), generator=generator, device=device).bool()
    rows, columns = shifts + torch.arange(side, device=device)
    columns = torch.where(mirrored, columns.flip(-1), columns)
    image = torch.arange(b, device=device)[:, None, None]
    return F.pad(images, [MARGIN] * 4)[image, rows[:, :, None], columns[:, None, :]]


class Trainer:
    """A model, its data and its optimizer; `step` is one step."""

    def __init__(self, training: Training):
        budget, device = training.budget, torch.device(training.device)
        torch.manual_seed(training.seed)
        self.budget, self.device = budget, device
        self.data = Split(training.folder, "train", device)
        self.model = build(training.scan, budget).to(device)
        self.steps = budget.epochs * (len(self.data.labels) // budget.batch)
        self.optimizer = torch.optim.AdamW(
            param_groups_weight_decay(self.model, budget.weight_decay), budget.lr, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, budget.lr, self.steps, pct_start=0.1, cycle_momentum=False
        )
        self.generator = torch.Generator(device).manual_seed(training.seed)
        self.batches = self.endless_batches()

    def endless_batches(self) -> Iterator[Tensor]:
        images = len(self.data.labels)
        while True:
            order = torch.randperm(images, generator=self.generator, device=self.device)
            yield from order[: images - images % self.budget.batch].split(self.budget.batch)

    def logits(self, images: Tensor) -> Tensor:
        mean, std = self.data.statistics
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return self.model((images[:, None].float() - mean) / std)

    def step(self) -> None:
        chosen = next(self.batches)
        images = augment(self.data.images[chosen], self.generator)
        loss = F.cross_entropy(
            self.logits(images).float(), self.data.labels[chosen],
            label_smoothing=self.budget.label_smoothing,
        )  # fmt: skip
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()

    @torch.no_grad()
    def accuracy(self, test: Split) -> float:
        """Share of images classified correctly."""
        self.model.eval()
        pairs = zip(test.images.split(1000), test.labels.split(1000), strict=True)
        right = [(self.logits(images).argmax(1) == labels).sum() for images, labels in pairs]
        return float(torch.stack(right).sum()) / len(test.labels)


def train(training: Training) -> tuple[Training, float]:
    """Run one training; its accuracy on the test images."""
    torch.set_num_threads(1)
    trainer = Trainer(training)
    for _ in range(trainer.steps):
        trainer.step()
    return training, trainer.accuracy(Split(training.folder, "t10k", trainer.device))


def images_per_s(training: Training) -> float:
    """Of training steps, with nothing else on the device."""
    long = dataclasses.replace(training.budget, epochs=10**6)  # the schedule must not end
    trainer = Trainer(dataclasses.replace(training, budget=long))
    milliseconds = time_call(trainer.step, trainer.device, TIMED_SECONDS).median
    return training.budget.batch / (milliseconds / 1e3)


def study(
    folder: Path,
    scans: Sequence[str],
    seeds: int,
    budget: Budget,
    jobs: int,
    device: torch.device,
    out: Path | None = None,
) -> dict[str, Any]:
    """Time and train; after every training the results are written into `out`.

    Args:
        folder: of the data set.
        scans: names of scans, with options.
        seeds: trainings of each scan.
        budget: of each training.
        jobs: processes that train at the same time; 1 trains in this one.
        device: they all share.
        out: folder of the results; None is benchmarks/results/ and the device's name.

    Returns:
        What the JSON file holds.
    """
    begin = time.perf_counter()
    out = out or RESULTS / environment.slug(environment.device_name(device))
    rows = []
    for scan in scans:
        rate = images_per_s(Training(folder, scan, 0, budget, str(device)))
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
        "jobs": jobs,
        "rows": rows,
    }
    trainings = [
        Training(folder, scan, seed, budget, str(device)) for seed in range(seeds) for scan in scans
    ]
    for training, accuracy in finished(train, trainings, jobs):
        row = next(row for row in rows if row["scan"] == training.scan)
        row["accuracies"][training.seed] = accuracy
        results["seconds"] = time.perf_counter() - begin
        print(f"{training.scan}, seed {training.seed}: {accuracy:.2%}", flush=True)
        write_atomic(out / "scan-study.json", (json.dumps(results, indent=1) + "\n").encode())
        write_atomic(out / "scan-study.md", to_markdown(results).encode())
        write_atomic(out / "scan-study.png", to_png(results))
    return results


def finished(
    function: Callable[[TaskT], ResultT], tasks: Sequence[TaskT], jobs: int
) -> Iterator[ResultT]:
    """What `function` makes of each task, as it comes, by `jobs` processes; 1 is this one."""
    if jobs == 1:
        yield from map(function, tasks)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(function, task) for task in tasks]):
            yield future.result()


def percentages(row: dict[str, Any]) -> list[float]:
    """Test accuracies of a row in percent, by seed."""
    return [100 * accuracy for _, accuracy in sorted(row["accuracies"].items())]


def to_markdown(results: dict[str, Any]) -> str:
    """Facts and a table, best mean first."""
    facts = {**results["environment"], **results["budget"], "trainings at a time": results["jobs"]}
    facts["seconds in all"] = f"{results['seconds']:.0f}"
    listed = "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
    lines = [
        "| scan | routes | parameters | test accuracy (%), mean | standard deviation | by seed "
        "| images/s, training alone |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    done = [row for row in results["rows"] if row["accuracies"]]
    for row in sorted(done, key=lambda row: -statistics.mean(percentages(row))):
        found = percentages(row)
        spread = f"{statistics.stdev(found):.2f}" if len(found) > 1 else ""
        seeds = ", ".join(f"{accuracy:.2f}" for accuracy in found)
        lines.append(
            f"| `{row['scan']}` | {row['routes']} | {row['parameters']:,} "
            f"| {statistics.mean(found):.2f} | {spread} | {seeds} | {row['images_per_s']:.0f} |"
        )
    title = "# Scans of one small VMamba on Fashion-MNIST"
    return "\n\n".join([title, listed, "\n".join(lines)]) + "\n"


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
    option("--seeds", type=int, default=3, help="trainings of each scan; default: %(default)s")
    option("--epochs", type=int, default=Budget.epochs, help="default: %(default)s")
    option("--jobs", type=int, default=1, help="trainings at a time; default: %(default)s")
    option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    option("--out", type=Path, help="folder of the results; default: benchmarks/results/DEVICE")
    args = parser.parse_args(argv)
    budget = dataclasses.replace(Budget(), epochs=args.epochs)
    device = torch.device(args.device)
    study(args.folder, args.scans, args.seeds, budget, args.jobs, device, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
