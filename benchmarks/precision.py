"""One VMamba on Fashion-MNIST at 64 x 64 in float32, bfloat16 and float16: do the losses agree.

    python -m benchmarks.precision /usr/share/datasets/fashion-mnist

The trainings start from the same weights, see the same images in the same order and take turns;
each draws the residual branches that it drops. float16 has a constant loss scale. The folder holds
the data set's four idx files, compressed or not.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm._files import write_atomic
from visionssm.models.vmamba import VMamba

from . import environment, report
from .fashion_mnist import CLASSES, FashionMNIST, Recipe, Trainer, accuracy, take_turns
from .run import RESULTS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
EXACT = "float32"  # which the others are compared with
GOAL = 0.945  # of the test images
ENLARGE = 2  # 32 x 32, with the margin that `Split` adds, to 64 x 64


@dataclasses.dataclass(frozen=True)
class Budget(Recipe):
    """What each training gets."""

    epochs: int = 60
    lr: float = 3e-3
    depths: tuple[int, ...] = (2, 2, 2)
    dims: tuple[int, ...] = (64, 128, 256)
    drop_path_rate: float = 0.1


class EnlargedVMamba(VMamba):
    """Reads images `ENLARGE` times as wide and high as they come."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=ENLARGE, mode="bilinear"))


def build(budget: Budget) -> EnlargedVMamba:
    """On patches of 4 x 4 pixels; the same weights every time."""
    torch.manual_seed(0)
    return EnlargedVMamba(
        in_chans=1, num_classes=CLASSES, patch_size=4, depths=budget.depths, dims=budget.dims,
        drop_path_rate=budget.drop_path_rate,
    )  # fmt: skip


def precision(
    folder: Path, budget: Budget, dtypes: Sequence[str], device: torch.device, out: Path | None
) -> dict[str, Any]:
    """Train in every dtype; the results are written into `out` at the end, see `report.stem`.

    Args:
        folder: of the data set.
        budget: of each training.
        dtypes: keys of `DTYPES`.
        device: of all trainings.
        out: folder of the results; None is benchmarks/results/ and the device's name.

    Returns:
        What the JSON file holds.
    """
    begin = time.perf_counter()
    out = out or RESULTS / environment.slug(environment.device_name(device))
    chosen = {"dtypes": dtypes, **dataclasses.asdict(budget)}
    defaults = {"dtypes": list(DTYPES), **dataclasses.asdict(Budget())}
    stem = report.stem("precision", chosen, defaults)
    data = FashionMNIST(folder, device)
    trainers = {
        name: Trainer(build(budget).to(device), data, budget, dtype=DTYPES[name]) for name in dtypes
    }
    take_turns(list(trainers.values()))
    rows = []
    for name, trainer in trainers.items():
        by_epoch = trainer.losses.view(budget.epochs, -1).mean(1).tolist()
        rows.append(
            {
                "dtype": name,
                "losses": by_epoch,
                "not_finite": int((~trainer.losses.isfinite()).sum()),
                "accuracy": accuracy(trainer.model, data, trainer.dtype),
            }
        )
        print(f"{name}: {rows[-1]['accuracy']:.2%}", flush=True)
    results = {
        "environment": environment.describe(device),
        "budget": dataclasses.asdict(budget),
        "rows": rows,
        "seconds": time.perf_counter() - begin,
    }
    write_atomic(out / f"{stem}.json", (json.dumps(results, indent=1) + "\n").encode())
    write_atomic(out / f"{stem}.md", to_markdown(results).encode())
    write_atomic(out / f"{stem}.png", to_png(results))
    return results


def largest_difference(rows: Sequence[dict[str, Any]], row: dict[str, Any]) -> float:
    """From the losses of `EXACT`, epoch by epoch, over those; NaN if it was not trained."""
    exact = next((r["losses"] for r in rows if r["dtype"] == EXACT), None)
    if exact is None:
        return math.nan
    return max(abs(a - b) / b for a, b in zip(row["losses"], exact, strict=True))


def to_markdown(results: dict[str, Any]) -> str:
    """Facts and a table."""
    facts = {**results["environment"], **results["budget"]}
    facts["seconds in all"] = f"{results['seconds']:.0f}"
    lines = [
        "| dtype | test accuracy (%) | goal | mean loss of the last epoch "
        f"| largest difference of an epoch's from {EXACT} | steps without a finite loss |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in results["rows"]:
        difference = largest_difference(results["rows"], row)
        lines.append(
            f"| {row['dtype']} | {100 * row['accuracy']:.2f} | {100 * GOAL:.1f} "
            f"| {row['losses'][-1]:.4f} | {difference:.2%} | {row['not_finite']} |"
        )
    title = "# One VMamba on Fashion-MNIST by precision"
    listed = "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
    return "\n\n".join([title, listed, "\n".join(lines)]) + "\n"


def to_png(results: dict[str, Any]) -> bytes:
    """Mean loss by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for row, style in zip(results["rows"], ("-", "--", ":"), strict=False):
        axes.plot(range(1, len(row["losses"]) + 1), row["losses"], style, label=row["dtype"])
    axes.set(xlabel="epoch", ylabel="mean training loss", title="VMamba on Fashion-MNIST, 64 x 64")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.precision", description=__doc__.splitlines()[0]
    )
    option = parser.add_argument
    option("folder", type=Path, help="of the four idx files of Fashion-MNIST")
    option("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="default: all")
    option("--epochs", type=int, default=Budget.epochs, help="default: %(default)s")
    option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    option("--out", type=Path, help="folder of the results; default: benchmarks/results/DEVICE")
    args = parser.parse_args(argv)
    if args.epochs < 1:
        parser.error(f"--epochs: expected a positive number, got {args.epochs}")
    budget = dataclasses.replace(Budget(), epochs=args.epochs)
    precision(args.folder, budget, args.dtypes, torch.device(args.device), args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
