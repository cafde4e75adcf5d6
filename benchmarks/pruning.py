"""Token pruning: what it costs in accuracy on Fashion-MNIST, and what it gains in speed.

    python -m benchmarks.pruning quality /usr/share/datasets/fashion-mnist
    python -m benchmarks.pruning speed
    python -m benchmarks.pruning speed --device cpu --filter "Vim-S 224"

`quality` times a small Vim, unpruned and pruned in several ways to several degrees, trains it once,
prunes it in each of these ways, and fine-tunes that for an epoch. `speed` times a compiled Vim with
random weights, unpruned and pruned to 60 % of its FLOPs, in one run. Calls are timed on CUDA as
graphs too, and the faster counts. The folder holds the data set's four idx files, compressed or
not.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from visionssm._files import write_atomic
from visionssm.analysis.flops import count_flops, meta_model
from visionssm.models.vim import Vim
from visionssm.pruning import prune

from . import environment, report
from .fashion_mnist import (
    CLASSES,
    TEST_BATCH,
    FashionMNIST,
    Recipe,
    Trainer,
    accuracy,
    autocast,
    take_turns,
)
from .measure import QUIET, other_cores, processor_seconds, time_call, time_graph
from .run import RESULTS

KEEPS = (0.9, 0.8, 0.7, 0.6, 0.5)
WAYS: dict[str, dict[str, Any]] = {
    "align": {},
    "align, carried time": {"time": "carried"},
    "hard": {"mode": "hard"},
    "merge": {"mode": "merge"},
    "random": {"importance": "random"},  # aligned, too
}
SIDE = 32  # pixels, with the margin that `Split` adds
TIMED_SECONDS = 0.2
CPU_ROUNDS = 7  # in turns: a busy CPU changes its clock in the course of a minute
TARGET_FLOPS = 0.6


@dataclass(frozen=True)
class Budget(Recipe):
    """Of the training, and of each fine-tuning after it."""

    epochs: int = 20
    batch: int = 500
    lr: float = 2e-3
    tune_epochs: int = 1
    tune_lr: float = 3e-4
    embed_dim: int = 128
    depth: int = 12
    images: int = 60000  # of the training set

    @property
    def tuning(self) -> Recipe:
        """Of a fine-tuning."""
        return dataclasses.replace(self, epochs=self.tune_epochs, lr=self.tune_lr)


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
        SpeedCase("Vim-B", "vim_base", 1248, 4, 1.6),
    ),
    "cpu": (SpeedCase("Vim-S", "vim_small", 224, 4, 1.4),),
}


@torch.no_grad()
def milliseconds(
    call: Callable[..., Any], inputs: Sequence[Tensor], device: torch.device, seconds: float
) -> dict[str, float]:
    """Medians of a call and, on CUDA, of its replay as a CUDA graph, by their names."""

    def run() -> None:
        with autocast(device):
            call(*inputs)

    found = {"call": time_call(run, device, seconds).median}
    if device.type == "cuda":
        found["CUDA graph"] = time_graph(lambda: run, device, seconds).median
    return found


def build(budget: Budget) -> Vim:
    """Vim on 8 x 8 patches and the class token."""
    return Vim(
        img_size=SIDE, patch_size=4, stride=4, in_chans=1, num_classes=CLASSES,
        embed_dim=budget.embed_dim, depth=budget.depth,
    )  # fmt: skip


def prune_by(model: Vim, way: str, keep: float) -> Vim:
    """Prune in place, unless the way is "unpruned"."""
    return model if way == "unpruned" else prune(model, keep, **WAYS[way])


def quality(
    folder: Path,
    budget: Budget,
    keeps: Sequence[float],
    streams: int,
    device: torch.device,
    out: Path,
) -> dict[str, Any]:
    """Time every way, train once, then prune and fine-tune, so many at a time as `streams` says.

    Results are written into `out` as they come, see `report.stem`.

    Raises:
        ValueError: streams is less than 1.
    """
    if streams < 1:
        raise ValueError(f"streams: expected at least 1, got {streams}")
    chosen = {"keeps": keeps, **dataclasses.asdict(budget)}
    defaults = {"keeps": KEEPS, **dataclasses.asdict(Budget())}
    stem = report.stem("pruning-quality", chosen, defaults)
    begin = time.perf_counter()
    data = FashionMNIST(folder, device, budget.images)
    torch.manual_seed(0)
    model = build(budget).to(device).eval()
    images = data.normalised(data.test.images[:TEST_BATCH])
    rows: list[dict[str, Any]] = []
    for way, keep in (("unpruned", 1.0), *((way, keep) for keep in keeps for way in WAYS)):
        pruned = prune_by(copy.deepcopy(model), way, keep)
        found = milliseconds(pruned, [images], device, TIMED_SECONDS)
        rate = len(images) / (min(found.values()) / 1e3)
        flops = count_flops(pruned.to("meta"), (1, SIDE, SIDE))
        rows.append({"way": way, "keep": keep, "flops": flops, "images_per_s": rate})
    print(f"timed {len(rows)} models; training", flush=True)
    results = {
        "environment": environment.describe(device),
        "budget": dataclasses.asdict(budget),
        "streams": streams,
        "rows": rows,
    }
    take_turns([Trainer(model, data, budget)])
    for i in range(0, len(rows), streams):
        together = rows[i : i + streams]
        models = [prune_by(copy.deepcopy(model), r["way"], r["keep"]) for r in together]
        for row, pruned in zip(together, models, strict=True):
            row["accuracy"] = accuracy(pruned, data)
        if budget.tune_epochs:
            take_turns([Trainer(pruned, data, budget.tuning) for pruned in models])
            for row, pruned in zip(together, models, strict=True):
                row["tuned_accuracy"] = accuracy(pruned, data)
        print("\n".join(map(quality_line, together)), flush=True)
        results["seconds"] = time.perf_counter() - begin
        write(out, stem, results, quality_markdown(results), quality_png(results))
    return results


def quality_line(row: dict[str, Any]) -> str:
    tuned = f", {row['tuned_accuracy']:.2%} fine-tuned" if "tuned_accuracy" in row else ""
    return (
        f"{row['way']}, keep {row['keep']:g}: {row['flops'] / 1e6:.1f} MFLOPs, "
        f"{row['images_per_s']:.0f} images/s, {row['accuracy']:.2%}{tuned}"
    )


def quality_markdown(results: dict[str, Any]) -> str:
    facts = {**results["environment"], **results["budget"]}
    facts["fine-tunings at a time"] = results["streams"]
    facts["seconds in all"] = f"{results['seconds']:.0f}"
    done = [row for row in results["rows"] if "accuracy" in row]
    lines = [
        "| way | keep | MFLOPs | images/s | accuracy (%) | fine-tuned (%) |",
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
        "near 95 %; the images are the same in every row. Images/s are of random weights, not "
        f"compiled, {TEST_BATCH} images at once and with nothing else on the device; on CUDA by "
        "the faster of the call and its CUDA graph.",
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


def keep_for_flops(case: SpeedCase, share: float) -> tuple[float, int, int]:
    """The largest rate, in steps of a hundredth, at which FLOPs are at most this share.

    Returns:
        The rate, and the FLOPs of an image without and with it.
    """
    model: Any = meta_model(case.model)
    model.set_input_size((case.size, case.size))
    size = (3, case.size, case.size)
    full, low, high = count_flops(model, size), 1, 100
    while low < high:
        middle = (low + high + 1) // 2
        fits = count_flops(prune(model, middle / 100), size) <= share * full
        low, high = (middle, high) if fits else (low, middle - 1)
    return low / 100, full, count_flops(prune(model, low / 100), size)


def measure_speed(case: SpeedCase, device: torch.device, seconds: float) -> dict[str, Any]:
    """Times and images/s of one case, unpruned and pruned, and the share that removing takes."""
    keep, flops, pruned_flops = keep_for_flops(case, TARGET_FLOPS)
    torch.manual_seed(0)
    model: Any = timm.create_model(case.model, img_size=case.size).to(device).eval()
    images = torch.randn(case.batch, 3, case.size, case.size, device=device)

    def times(function: Any, *inputs: Tensor) -> dict[str, float]:
        torch.compiler.reset()
        if device.type != "cpu":
            function = torch.compile(function, fullgraph=True, dynamic=False)
        return milliseconds(function, inputs, device, seconds)

    row = {"case": case.label, "keep": keep, "goal": case.goal}
    row |= {"flops": flops, "pruned_flops": pruned_flops}
    begin = processor_seconds()
    pruned_model = prune(copy.deepcopy(model), keep)
    rounds = [
        {"ms": times(model, images), "pruned_ms": times(pruned_model, images)}
        for _ in range(CPU_ROUNDS if device.type == "cpu" else 1)
    ]
    for of in ("ms", "pruned_ms"):
        row[of] = {how: statistics.median(r[of][how] for r in rounds) for how in rounds[0][of]}
    removals = recorded_removals(pruned_model, images)
    row["removing_ms"] = times(lambda: [pruned_model.remove(*arguments) for arguments in removals])
    row["other_cores"] = other_cores(begin, processor_seconds()) if device.type == "cpu" else None
    best, pruned, removing = (min(row[f"{of}ms"].values()) for of in ("", "pruned_", "removing_"))
    row["images_per_s"] = case.batch / (best / 1e3)
    row["pruned_images_per_s"] = case.batch / (pruned / 1e3)
    row["times_as_fast"] = best / pruned
    row["removing_share"] = removing / pruned
    return row


@torch.no_grad()
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
    cases: Sequence[SpeedCase], device: torch.device, seconds: float, out: Path, stem: str
) -> dict[str, Any]:
    """Measure the cases; results are written into `out` after each, under the name `stem`."""
    begin = time.perf_counter()
    rows: list[dict[str, Any]] = []
    results = {"environment": environment.describe(device), "rows": rows}
    for case in cases:
        rows.append(measure_speed(case, device, seconds))
        print(json.dumps(rows[-1]), flush=True)
        results["seconds"] = time.perf_counter() - begin
        write(out, stem, results, speed_markdown(results), speed_png(results))
    return results


def speed_markdown(results: dict[str, Any]) -> str:
    facts = {**results["environment"], "seconds in all": f"{results['seconds']:.0f}"}
    timed = list(results["rows"][0]["ms"])
    columns = [
        "case", "keep", "GFLOPs", "of unpruned",
        *(f"ms, unpruned, {how}" for how in timed), *(f"pruned, {how}" for how in timed),
        "images/s, unpruned", "pruned", "times as fast", "goal", "removing", "other cores",
    ]  # fmt: skip
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)]]
    for row in results["rows"]:
        times = [row[key][how] for key in ("ms", "pruned_ms") for how in timed]
        lines.append(
            [
                row["case"], f"{row['keep']:g}", f"{row['pruned_flops'] / 1e9:.2f}",
                f"{row['pruned_flops'] / row['flops']:.1%}", *(f"{ms:.4g}" for ms in times),
                f"{row['images_per_s']:.4g}", f"{row['pruned_images_per_s']:.4g}",
                f"{row['times_as_fast']:.2f}", str(row["goal"]), f"{row['removing_share']:.1%}",
                "" if row["other_cores"] is None else f"{row['other_cores']:.2g}",
            ]
        )  # fmt: skip
    return "\n\n".join(
        [
            "# Token pruning: speed",
            "\n".join(f"- {name}: {fact}" for name, fact in facts.items()),
            "\n".join(f"| {' | '.join(line)} |" for line in lines),
            "Compiled and under bfloat16 autocast on CUDA, as they are in float32 on the CPU; "
            "random weights, `prune(model, keep)`. Times are medians of a batch, on the CPU of "
            f"{CPU_ROUNDS} rounds in which unpruned and pruned take turns; images/s and what "
            "follows are by the faster of the call and, on CUDA, its CUDA graph, in which the host "
            "has no part. Removing: scoring, selecting, gathering and the clock, timed by "
            "themselves in the same way, over the pruned model's time. Other cores: at work for "
            f"other processes meanwhile, on the CPU; with more than {QUIET:g} a row says little.",
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
    parsers["quality"].add_argument("--streams", type=int, default=1, help="fine-tunings at a time")
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
        quality(args.folder, budget, args.keeps, args.streams, device, out)
    else:
        cases = [case for case in SPEED_CASES[device.type] if args.filter in case.label]
        if not cases:
            parser.error(f"--filter: expected text of a case, got {args.filter!r}")
        stem = environment.slug(f"pruning-speed {args.filter}")
        speed(cases, device, args.seconds, out, stem)
    return 0


if __name__ == "__main__":
    sys.exit(main())
