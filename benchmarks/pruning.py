"""Token pruning: what it costs in accuracy on Fashion-MNIST, and what it gains in speed.

    python -m benchmarks.pruning quality /usr/share/datasets/fashion-mnist --jobs 8
    python -m benchmarks.pruning speed
    python -m benchmarks.pruning speed --device cpu --filter "Vim-S 224"

`quality` times a small Vim, unpruned and pruned in several ways to several degrees, trains it once,
prunes it in each of these ways, and fine-tunes that for an epoch. `speed` times a compiled Vim with
random weights, unpruned and pruned to 60 % of its FLOPs, in one run. The folder holds the data
set's four idx files, compressed or not.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay
from torch import Tensor

from visionssm.analysis.flops import count_flops, meta_model
from visionssm.models.vim import Vim
from visionssm.pruning import prune, unprune

from . import environment
from .measure import time_call
from .report import write_atomic
from .run import RESULTS
from .scan_study import Split, augment, finished

KEEPS = (0.9, 0.8, 0.7, 0.6, 0.5)
WAYS: dict[str, dict[str, Any]] = {
    "align": {},
    "align, carried time": {"time": "carried"},
    "hard": {"mode": "hard"},
    "merge": {"mode": "merge"},
    "random": {"importance": "random"},  # aligned, too
}
SIDE = 32  # pixels, with the margin that `Split` adds
TEST_BATCH = 1000
TIMED_BATCH = 5000  # so large that the GPU, not the host, sets the pace
TIMED_SECONDS = 0.3
TARGET_FLOPS = 0.6


@dataclass(frozen=True)
class Budget:
    """Of the training, and of each fine-tuning after it."""

    epochs: int = 20
    tune_epochs: int = 1
    batch: int = 500
    lr: float = 2e-3
    tune_lr: float = 3e-4
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    embed_dim: int = 128
    depth: int = 12
    images: int = 60000  # of the training set


@dataclass(frozen=True)
class SpeedCase:
    """A model, image size and batch, and how many times as fast pruning should make it."""

    name: str
    model: str
    size: int
    batch: int
    goal: float | None

    @property
    def label(self) -> str:
        return f"{self.name} {self.size}, batch {self.batch}"


SPEED_CASES = {
    "cuda": (
        SpeedCase("Vim-S", "vim_small", 224, 128, 1.35),
        SpeedCase("Vim-S", "vim_small", 448, 32, 1.5),
        SpeedCase("Vim-T", "vim_tiny", 1248, 4, 1.6),
        SpeedCase("Vim-S", "vim_small", 1248, 4, 1.6),
    ),
    "cpu": (SpeedCase("Vim-S", "vim_small", 224, 4, 1.4),),
}


class Data:
    """Fashion-MNIST on a device, normalised as the training set is."""

    def __init__(self, folder: Path, device: torch.device):
        self.train, self.test = Split(folder, "train", device), Split(folder, "t10k", device)

    def normalised(self, images: Tensor) -> Tensor:
        mean, std = self.train.statistics
        return (images[:, None].float() - mean) / std


def autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def fit(model: Vim, data: Data, budget: Budget, epochs: int, lr: float) -> None:
    """Train in place; the same seed every time."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    per_epoch = budget.images // budget.batch
    optimizer = torch.optim.AdamW(
        param_groups_weight_decay(model, budget.weight_decay, model.no_weight_decay()), lr
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, epochs * per_epoch, pct_start=0.1, cycle_momentum=False
    )
    model.train()
    for _ in range(epochs):
        order = torch.randperm(budget.images, generator=generator, device=device)
        for chosen in order[: per_epoch * budget.batch].split(budget.batch):
            images = augment(data.train.images[chosen], generator)
            with autocast(device):
                logits = model(data.normalised(images))
            loss = F.cross_entropy(
                logits.float(), data.train.labels[chosen], label_smoothing=budget.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    model.eval()


@torch.no_grad()
def accuracy(model: Vim, data: Data) -> float:
    """Share of the test images classified correctly."""
    right = torch.zeros((), device=data.test.labels.device)
    pairs = zip(data.test.images.split(TEST_BATCH), data.test.labels.split(TEST_BATCH), strict=True)
    for images, labels in pairs:
        with autocast(labels.device):
            right += (model(data.normalised(images)).argmax(1) == labels).sum()
    return float(right) / len(data.test.labels)


@torch.no_grad()
def images_per_s(call: Callable[[Tensor], Tensor], images: Tensor, seconds: float) -> float:
    with autocast(images.device):
        milliseconds = time_call(lambda: call(images), images.device, seconds).median
    return len(images) / (milliseconds / 1e3)


@dataclass(frozen=True)
class Tuning:
    """A trained model that is pruned in one way and then fine-tuned."""

    folder: Path
    budget: Budget
    way: str
    keep: float
    weights: bytes  # of the trained model, by torch.save
    device: str


def build(budget: Budget) -> Vim:
    """Vim on 8 x 8 patches and the class token."""
    return Vim(
        img_size=SIDE, patch_size=4, stride=4, in_chans=1, num_classes=10,
        embed_dim=budget.embed_dim, depth=budget.depth,
    )  # fmt: skip


def prune_by(model: Vim, way: str, keep: float) -> Vim:
    """Prune in place, unless the way is "unpruned"."""
    return model if way == "unpruned" else prune(model, keep, **WAYS[way])


def tune(tuning: Tuning) -> tuple[Tuning, dict[str, float]]:
    """Prune, fine-tune; accuracy before and, if the budget has epochs for it, after tuning."""
    torch.set_num_threads(1)
    budget, device = tuning.budget, torch.device(tuning.device)
    data = Data(tuning.folder, device)
    model = build(budget)
    model.load_state_dict(torch.load(io.BytesIO(tuning.weights)))
    pruned = prune_by(model, tuning.way, tuning.keep).to(device).eval()
    found = {"accuracy": accuracy(pruned, data)}
    if budget.tune_epochs:
        fit(pruned, data, budget, budget.tune_epochs, budget.tune_lr)
        found["tuned_accuracy"] = accuracy(pruned, data)
    return tuning, found


def quality(
    folder: Path,
    budget: Budget,
    keeps: Sequence[float],
    jobs: int,
    device: torch.device,
    out: Path,
) -> dict[str, Any]:
    """Time every way, train once, then prune and fine-tune.

    Results are written into `out` as they come. `jobs` processes fine-tune at the same time; 1
    does it in this one.
    """
    begin = time.perf_counter()
    data = Data(folder, device)
    torch.manual_seed(0)
    model = build(budget).to(device).eval()
    images = data.normalised(data.test.images[:TIMED_BATCH])
    rows: list[dict[str, Any]] = []
    for way, keep in (("unpruned", 1.0), *((way, keep) for keep in keeps for way in WAYS)):
        pruned = prune_by(copy.deepcopy(model), way, keep)
        rate = images_per_s(pruned, images, TIMED_SECONDS)
        flops = count_flops(pruned, (1, SIDE, SIDE))
        rows.append({"way": way, "keep": keep, "flops": flops, "images_per_s": rate})
    print(f"timed {len(rows)} models; training", flush=True)
    results = {
        "environment": environment.describe(device),
        "budget": dataclasses.asdict(budget),
        "jobs": jobs,
        "rows": rows,
    }
    fit(model, data, budget, budget.epochs, budget.lr)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    weights = buffer.getvalue()
    tunings = [Tuning(folder, budget, r["way"], r["keep"], weights, str(device)) for r in rows]
    for tuning, found in finished(tune, tunings, jobs):
        row = next(r for r in rows if (r["way"], r["keep"]) == (tuning.way, tuning.keep))
        row |= found
        print(quality_line(row), flush=True)
        results["seconds"] = time.perf_counter() - begin
        write(out, "pruning-quality", results, quality_markdown(results), quality_png(results))
    return results


def quality_line(row: dict[str, Any]) -> str:
    tuned = f", {row['tuned_accuracy']:.2%} fine-tuned" if "tuned_accuracy" in row else ""
    return (
        f"{row['way']}, keep {row['keep']:g}: {row['flops'] / 1e6:.1f} MFLOPs, "
        f"{row['images_per_s']:.0f} images/s, {row['accuracy']:.2%}{tuned}"
    )


def quality_markdown(results: dict[str, Any]) -> str:
    facts = {**results["environment"], **results["budget"]}
    facts["fine-tunings at a time"] = results["jobs"]
    facts["seconds in all"] = f"{results['seconds']:.0f}"
    done = [row for row in results["rows"] if "accuracy" in row]
    lines = [
        "| way | keep | MFLOPs | images/s, not compiled | accuracy (%) | fine-tuned (%) |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in done:
        tuned = f"{100 * row['tuned_accuracy']:.2f}" if "tuned_accuracy" in row else ""
        lines.append(
            f"| {row['way']} | {row['keep']:g} | {row['flops'] / 1e6:.1f} "
            f"| {row['images_per_s']:.0f} | {100 * row['accuracy']:.2f} | {tuned} |"
        )
    parts = [
        "# Token pruning of one Vim on Fashion-MNIST",
        "\n".join(f"- {name}: {fact}" for name, fact in facts.items()),
        "\n".join(lines),
        "`keep` is the rate after a quarter, a half and three quarters of the blocks. The standard "
        "error of an accuracy is at most 0.5 points over the 10,000 test images, a fifth of that "
        "near 95 %; the images are the same in every row. Images/s are of random weights, "
        f"{TIMED_BATCH} images at once, before the training and with nothing else on the device.",
        "\n".join(verdicts(done)),
    ]
    return "\n\n".join(parts) + "\n"


def verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """By how many points alignment beats hard removal, and importance chance, at each rate."""
    found = []
    for better, worse in (("align", "hard"), ("align", "align, carried time"), ("align", "random")):
        for key, when in (("accuracy", "at once"), ("tuned_accuracy", "fine-tuned")):
            by_way = [
                {r["keep"]: r.get(key) for r in rows if r["way"] == w} for w in (better, worse)
            ]
            pairs = [(k, v, by_way[1].get(k)) for k, v in by_way[0].items()]
            leads = [f"{100 * (a - b):+.2f} at {k:g}" for k, a, b in pairs if a and b]
            if leads:
                found.append(f"- {better} against {worse}, {when}: {', '.join(leads)}")
    return found


def quality_png(results: dict[str, Any]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = (("accuracy", "pruned at once"), ("tuned_accuracy", "and fine-tuned"))
    for i, (key, title) in enumerate(panels):
        axes = figure.add_subplot(1, 2, i + 1)
        for way in WAYS:
            rows = [r for r in results["rows"] if r["way"] in (way, "unpruned") and key in r]
            points = [(r["flops"] / 1e6, 100 * r[key]) for r in rows]
            axes.plot(*zip(*points, strict=True), "o-", label=way) if points else None
        axes.set(xlabel="MFLOPs an image", ylabel="test accuracy (%)", title=title)
        axes.grid(alpha=0.3)
        axes.legend()
    return _png(figure)


def keep_for_flops(case: SpeedCase, share: float) -> float:
    """The largest rate, in steps of a hundredth, at which FLOPs are at most this share."""
    model: Any = meta_model(case.model)
    model.set_input_size((case.size, case.size))
    size = (3, case.size, case.size)
    full, low, high = count_flops(model, size), 1, 100
    while low < high:
        middle = (low + high + 1) // 2
        fits = count_flops(prune(model, middle / 100), size) <= share * full
        low, high = (middle, high) if fits else (low, middle - 1)
    return low / 100


@torch.no_grad()
def measure_speed(case: SpeedCase, device: torch.device, seconds: float) -> dict[str, Any]:
    """Images/s of one case, unpruned and pruned, and the share of time that removing takes."""
    keep = keep_for_flops(case, TARGET_FLOPS)
    torch.manual_seed(0)
    model: Any = timm.create_model(case.model, img_size=case.size).to(device).eval()
    images = torch.randn(case.batch, 3, case.size, case.size, device=device)

    def build(function: Any) -> Any:
        torch.compiler.reset()
        if device.type == "cpu":
            return function
        return torch.compile(function, fullgraph=True, dynamic=False)

    row = {"case": case.label, "keep": keep, "goal": case.goal}
    row["flops"] = count_flops(model, (3, case.size, case.size))
    row["images_per_s"] = images_per_s(build(model), images, seconds)
    prune(model, keep)
    row["pruned_flops"] = count_flops(model, (3, case.size, case.size))
    row["pruned_images_per_s"] = images_per_s(build(model), images, seconds)
    row["times_as_fast"] = row["pruned_images_per_s"] / row["images_per_s"]
    removals = recorded_removals(model, images)
    remove = build(lambda: [model.remove(*arguments) for arguments in removals])
    with autocast(device):
        milliseconds = time_call(remove, device, seconds).median
    row["removing_share"] = milliseconds / 1e3 * row["pruned_images_per_s"] / case.batch
    unprune(model)
    return row


def recorded_removals(model: Any, images: Tensor) -> list[tuple[Any, ...]]:
    """The arguments of each call of `PrunedVim.remove` in one forward pass."""
    calls = []
    original = type(model).remove

    def remember(*arguments: Any) -> Any:
        calls.append(arguments)
        return original(model, *arguments)

    model.remove = remember
    try:
        with autocast(images.device):
            model(images)
    finally:
        del model.remove
    return calls


def speed(
    cases: Sequence[SpeedCase], device: torch.device, seconds: float, out: Path
) -> dict[str, Any]:
    """Measure the cases; results are written into `out` after each."""
    begin = time.perf_counter()
    rows: list[dict[str, Any]] = []
    results = {"environment": environment.describe(device), "rows": rows}
    for case in cases:
        rows.append(measure_speed(case, device, seconds))
        print(json.dumps(rows[-1]), flush=True)
        results["seconds"] = time.perf_counter() - begin
        write(out, "pruning-speed", results, speed_markdown(results), speed_png(results))
    return results


def speed_markdown(results: dict[str, Any]) -> str:
    facts = {**results["environment"], "seconds in all": f"{results['seconds']:.0f}"}
    lines = [
        "| case | keep | GFLOPs | of unpruned | images/s, unpruned | pruned | times as fast | goal "
        "| removing |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in results["rows"]:
        lines.append(
            f"| {row['case']} | {row['keep']:g} | {row['pruned_flops'] / 1e9:.2f} "
            f"| {row['pruned_flops'] / row['flops']:.1%} | {row['images_per_s']:.4g} "
            f"| {row['pruned_images_per_s']:.4g} | {row['times_as_fast']:.2f} | {row['goal']} "
            f"| {row['removing_share']:.1%} |"
        )
    return "\n\n".join(
        [
            "# Token pruning: speed",
            "\n".join(f"- {name}: {fact}" for name, fact in facts.items()),
            "\n".join(lines),
            "Compiled and under bfloat16 autocast on CUDA, as they are in float32 on the CPU; "
            "random weights, `prune(model, keep)`. Removing: scoring, selecting, gathering and the "
            "clock, timed by themselves, over the pruned model's time.",
        ]
    )


def speed_png(results: dict[str, Any]) -> bytes:
    from matplotlib.figure import Figure

    rows = results["rows"]
    figure = Figure(figsize=(7, 1.5 + 0.6 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(rows))
    axes.barh(places, [row["times_as_fast"] for row in rows], height=0.5)
    axes.plot([row["goal"] for row in rows], places, "k|", markersize=22)
    axes.set_yticks(places, [row["case"] for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel="images/s over unpruned; black: goal", title="60 % of the FLOPs")
    axes.grid(alpha=0.3, axis="x")
    return _png(figure)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def write(out: Path, stem: str, results: dict[str, Any], text: str, picture: bytes) -> None:
    write_atomic(out / f"{stem}.json", (json.dumps(results, indent=1) + "\n").encode())
    write_atomic(out / f"{stem}.md", text.encode())
    write_atomic(out / f"{stem}.png", picture)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.pruning", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {name: commands.add_parser(name) for name in ("quality", "speed")}
    parsers["quality"].add_argument("folder", type=Path, help="of Fashion-MNIST's four idx files")
    parsers["quality"].add_argument("--keeps", type=float, nargs="+", default=KEEPS)
    parsers["quality"].add_argument("--jobs", type=int, default=1, help="fine-tunings at a time")
    for field in dataclasses.fields(Budget):
        option = f"--{field.name.replace('_', '-')}"
        kind = type(field.default)
        parsers["quality"].add_argument(option, type=kind, default=field.default)
    parsers["speed"].add_argument("--filter", default="", help="text in the name of a case")
    parsers["speed"].add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    for each in parsers.values():
        each.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        each.add_argument("--out", type=Path, help="default: benchmarks/results/DEVICE")
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    out = args.out or RESULTS / environment.slug(environment.device_name(device))
    if args.command == "quality":
        budget = Budget(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Budget)})
        quality(args.folder, budget, args.keeps, args.jobs, device, out)
    else:
        cases = [case for case in SPEED_CASES[device.type] if args.filter in case.label]
        if not cases:
            parser.error(f"--filter: expected text of a case, got {args.filter!r}")
        speed(cases, device, args.seconds, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
