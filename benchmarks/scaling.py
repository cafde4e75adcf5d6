"""Training on one GPU and on several, by DistributedDataParallel: how many times as fast.

    python -m benchmarks.scaling --processes 1 2

Each process trains the same model on random images of its own, batch after batch, with AdamW under
bfloat16 autocast; one process is not wrapped. Rates are of all processes together, by the wall
clock from one barrier to the next.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.spawn import spawn

import visionssm  # noqa: F401  registers the models
from visionssm._files import write_atomic

from . import environment, report
from .run import RESULTS

WARMUP_STEPS = 10
PROCESSES = (1, 2)


@dataclass(frozen=True)
class Job:
    """What every process trains."""

    model: str = "vmamba_tiny_s1l8"
    size: int = 224
    batch: int = 128  # of a process
    steps: int = 100  # that are timed
    compiled: bool = False
    device: str = "cuda"


class Step:
    """One training step of this process."""

    def __init__(self, job: Job, rank: int, processes: int):
        torch.manual_seed(0)
        device = self.device = torch.device(f"cuda:{rank}" if job.device == "cuda" else job.device)
        model: nn.Module = timm.create_model(job.model).to(device).train()
        if job.compiled:
            model.compile(dynamic=False)
        if processes > 1:
            on = [rank] if job.device == "cuda" else None
            model = nn.parallel.DistributedDataParallel(model, on, gradient_as_bucket_view=True)
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
        generator = torch.Generator(device).manual_seed(rank)
        shape = (job.batch, 3, job.size, job.size)
        self.images = torch.randn(shape, device=device, generator=generator)
        self.labels = torch.randint(1000, (job.batch,), device=device, generator=generator)

    def __call__(self) -> None:
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = self.model(self.images)
        F.cross_entropy(logits.float(), self.labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def run_process(rank: int, job: Job, processes: int, port: int, out: str) -> None:
    """Train in one of the processes; the first writes the seconds of the timed steps to `out`."""
    torch.set_num_threads(1)
    if job.device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if job.device == "cuda" else "gloo",
        init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes,
    )  # fmt: skip
    try:
        step = Step(job, rank, processes)
        for _ in range(WARMUP_STEPS):
            step()
        begin = _all_here(job.device)
        for _ in range(job.steps):
            step()
        seconds = _all_here(job.device) - begin
        if rank == 0:
            Path(out).write_text(json.dumps(seconds))
    finally:
        dist.destroy_process_group()


def _all_here(device: str) -> float:
    """The time when every process has finished what it launched."""
    if device == "cuda":
        torch.cuda.synchronize()
    dist.barrier()
    return time.perf_counter()


def measure(job: Job, processes: int, folder: Path) -> float:
    """Images/s of so many processes."""
    out = folder / f".scaling-{processes}"
    try:
        spawn(run_process, (job, processes, _free_port(), str(out)), processes)
        seconds = json.loads(out.read_text())
    finally:
        out.unlink(missing_ok=True)
    return processes * job.batch * job.steps / seconds


def _free_port() -> int:
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def scaling(job: Job, counts: Sequence[int], out: Path | None = None) -> dict[str, Any]:
    """Measure each number of processes; results are written into `out` after each.

    The files are named after the model and, by `report.stem`, after what is not the default.

    Args:
        job: what they train.
        counts: numbers of processes, the first of which the others are compared with.
        out: folder of the results; None is benchmarks/results/ and the device's name.

    Returns:
        What the JSON file holds.
    """
    device = torch.device(job.device)
    out = out or RESULTS / environment.slug(environment.device_name(device))
    out.mkdir(parents=True, exist_ok=True)
    default = Job(model=job.model, device=job.device)  # in the name, and in that of the folder
    chosen = {"processes": counts, **dataclasses.asdict(job)}
    defaults = {"processes": PROCESSES, **dataclasses.asdict(default)}
    stem = report.stem(f"scaling {job.model}", chosen, defaults)
    rows: list[dict[str, float]] = []
    results = {
        "environment": environment.describe(device), "job": dataclasses.asdict(job), "rows": rows
    }  # fmt: skip
    for count in counts:
        rate = measure(job, count, out)
        first = rows[0] if rows else {"images_per_s": rate, "processes": count}
        ideal = first["images_per_s"] * count / first["processes"]
        rows.append({"processes": count, "images_per_s": rate, "of_ideal": rate / ideal})
        print(json.dumps(rows[-1]), flush=True)
        write_atomic(out / f"{stem}.json", (json.dumps(results, indent=1) + "\n").encode())
        write_atomic(out / f"{stem}.md", to_markdown(results).encode())
    return results


def to_markdown(results: dict[str, Any]) -> str:
    """Facts and a table."""
    facts = {**results["environment"], **results["job"]}
    lines = ["| processes | images/s | of ideal |", "| ---: | ---: | ---: |"]
    lines += [
        f"| {row['processes']} | {row['images_per_s']:.0f} | {row['of_ideal']:.1%} |"
        for row in results["rows"]
    ]
    title = f"# Training {results['job']['model']} on several devices"
    listed = "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
    return "\n\n".join([title, listed, "\n".join(lines)]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.scaling", description=__doc__.splitlines()[0])
    option = parser.add_argument
    option("--processes", type=int, nargs="+", default=PROCESSES, help="default: 1 2")
    option("--model", default=Job.model, help="name in timm's registry; default: %(default)s")
    option("--size", type=int, default=Job.size, help="of images; default: %(default)s")
    option("--batch", type=int, default=Job.batch, help="of a process; default: %(default)s")
    option("--steps", type=int, default=Job.steps, help="that are timed; default: %(default)s")
    option("--compiled", action="store_true", help="by torch.compile")
    option("--device", default=Job.device, help="cuda, a GPU each, or cpu; default: %(default)s")
    option("--out", type=Path, help="folder of the results; default: benchmarks/results/DEVICE")
    args = parser.parse_args(argv)
    if min(args.processes) < 1:
        parser.error(f"--processes: expected positive numbers, got {args.processes}")
    if args.device == "cuda" and max(args.processes) > torch.cuda.device_count():
        found = torch.cuda.device_count()
        parser.error(f"--processes: expected at most the {found} GPUs here, got {args.processes}")
    fields = {field.name: getattr(args, field.name) for field in dataclasses.fields(Job)}
    scaling(Job(**fields), args.processes, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
