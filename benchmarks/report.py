"""Results as JSON, as a Markdown table and as a plot; each file is complete or absent."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionssm._files import write_atomic

from . import environment
from .measure import Kernel, Limits, Record, Timing
from .task import Error

COLUMNS: dict[str, Callable[[Record], str]] = {
    "case": lambda r: r.case,
    "contender": lambda r: r.contender,
    "mode": lambda r: r.mode,
    "dtype": lambda r: r.dtype,
    "what": lambda r: r.quantity,
    "ms (20 to 80 %)": lambda r: _timing(r.time_ms) if r.status == "measured" else _status(r),
    "as CUDA graph": lambda r: _timing(r.graph_ms),
    "images/s": lambda r: _number(r.images_per_s),
    "times raster order": lambda r: "" if r.ratio is None else f"{r.ratio:.3f}",
    "of copy": lambda r: _percent(r.copy_share),
    "of exp": lambda r: _percent(r.exponential_share),
    "of matmul": lambda r: _percent(r.flop_share),
    "peak MiB": lambda r: _number(r.peak_mib),
    "other cores": lambda r: _number(r.other_cores),
    "goal": lambda r: "" if r.goal is None else f"{_number(r.goal)} {r.goal_unit}",
    "met": lambda r: {None: "", True: "yes", False: "no"}[r.met],
    "error / limit": lambda r: _worst(r),
}
LEGEND = """\
Times are medians with the 20th and 80th percentile. What follows them is of the faster of the two
times, and so is the comparison with the goal. Of copy: bytes that cannot but move (inputs once,
outputs once) over the bandwidth of a device copy. Of exp: exponentials that the operation needs
over what the special-function units give. Of matmul: FLOPs (a multiply-add is two) over those of a
large matrix product. Times raster order: the time over that of a table of the same shape, and so
with as many steps, which lists the tokens row by row. Peak: memory above inputs and weights. Other
cores: at work for other processes meanwhile; a row with more than a tenth neither sets a goal nor
meets one. Error / limit: the worst deviation from the float64 truth over what the dtype explains;
above 1 a row is not timed.
"""
LISTED_KERNELS = 12


@dataclass
class Results:
    """Everything that one suite gave in one run."""

    suite: str
    environment: dict[str, Any]
    limits: Limits
    records: list[Record]


def to_json(results: Results) -> str:
    """Dataclasses as objects, timings and errors as objects with the names of their fields."""

    def named(value: Any) -> Any:
        if isinstance(value, Timing | Error | Kernel):
            return value._asdict()
        if isinstance(value, list):
            return [named(item) for item in value]
        if isinstance(value, dict):
            return {key: named(item) for key, item in value.items()}
        return value

    rows = [
        {f.name: named(getattr(record, f.name)) for f in dataclasses.fields(record)}
        for record in results.records
    ]
    content = {
        "suite": results.suite,
        "environment": results.environment,
        "limits": results.limits._asdict(),
        "rows": rows,
    }
    return json.dumps(content, indent=1) + "\n"


def to_markdown(results: Results) -> str:
    """Environment, limits, a table without the columns that no row fills, and kernels."""
    limits = results.limits
    facts = {
        **results.environment,
        "device copy": f"{limits.copy_bytes_per_s / 1e9:.4g} GB/s, read and written",
        "matrix product": f"{limits.matmul_flops_per_s / 1e12:.4g} TFLOP/s, {limits.matmul_dtype}",
    }
    if limits.exponentials_per_s is not None:
        facts["exponentials"] = f"{limits.exponentials_per_s / 1e12:.4g}e12 /s, computed"
    listed = "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
    title = f"# Suite `{results.suite}`"
    profiles = [kernels(r) for r in results.records if r.kernels and r.met is False]
    return "\n\n".join([title, listed, table(results.records), LEGEND, *profiles])


def kernels(record: Record) -> str:
    """Where the time of a row goes that misses its goal: its longest kernels, and all together."""
    rows = [
        (f"`{kernel.name}`", kernel.milliseconds, kernel.launches)
        for kernel in record.kernels[:LISTED_KERNELS]
    ]
    everything = (
        sum(k.milliseconds for k in record.kernels),
        sum(k.launches for k in record.kernels),
    )
    lines = [
        f"## {record.case}, {record.contender}, {record.mode}, {record.quantity}",
        "",
        "| kernel | ms | launches |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {ms:.3f} | {n:.0f} |" for name, ms, n in (*rows, ("all", *everything))),
    ]
    return "\n".join(lines) + "\n"


def table(records: list[Record]) -> str:
    """The rows as a Markdown table."""
    columns = {name: [cell(record) for record in records] for name, cell in COLUMNS.items()}
    columns = {name: column for name, column in columns.items() if any(column)}
    lines = [tuple(columns), ("---",) * len(columns), *zip(*columns.values(), strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def line(record: Record) -> str:
    """One row in short, to be printed while others are still to come."""
    cells = ("case", "contender", "mode", "what", "ms (20 to 80 %)", "as CUDA graph", "images/s")
    return "  ".join(text for text in (COLUMNS[name](record) for name in cells) if text)


def _status(record: Record) -> str:
    why = record.why.partition("\n")[0].replace("|", "/")
    return f"{record.status}: {why}"


def _timing(timing: Timing | None) -> str:
    if timing is None:
        return ""
    return f"{_number(timing.median)} ({_number(timing.low)} to {_number(timing.high)})"


def _number(value: float | None) -> str:
    """Three significant digits, and no fewer than the integer has."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.3g} %"


def _worst(record: Record) -> str:
    if not record.errors:
        return ""
    return f"{max(error.value / error.limit for error in record.errors.values()):.2g}"


def to_png(results: Results) -> bytes:
    """One panel a quantity: a dot a measured row, a black tick at its goal; logarithmic."""
    from matplotlib.figure import Figure

    panels: dict[str, list[Record]] = {}
    for record in results.records:
        if record.status == "measured":
            panels.setdefault(record.quantity, []).append(record)
    height = 1.5 + 0.25 * max((len(records) for records in panels.values()), default=0)
    figure = Figure(figsize=(9 * max(1, len(panels)), height), layout="constrained")
    figure.suptitle(f"{results.suite} on {results.environment['device']}")
    for i, (quantity, records) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), i + 1)
        _draw_panel(axes, quantity, records)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _draw_panel(axes: Any, quantity: str, records: list[Record]) -> None:
    ratios = any(r.ratio for r in records)
    if ratios:  # not what they are relative to
        records = [r for r in records if r.ratio]
    contenders = list(dict.fromkeys((r.contender, r.mode) for r in records))
    colours = [f"C{contenders.index((r.contender, r.mode)) % 10}" for r in records]
    rows = range(len(records))
    axes.scatter([r.ratio or r.images_per_s or r.best_ms for r in records], rows, c=colours)
    goals = [(row, r.goal) for row, r in zip(rows, records, strict=True) if r.goal is not None]
    axes.plot([goal for _, goal in goals], [row for row, _ in goals], "k|", markersize=14)
    axes.set_yticks(rows, [f"{r.case} {r.contender} {r.mode}" for r in records], fontsize=7)
    axes.invert_yaxis()
    unit = "images/s, more is better" if records[0].images_per_s else "ms, less is better"
    if ratios:
        unit = "time over that of raster order, less is better"
    axes.set(xscale="linear" if ratios else "log", xlabel=f"{unit}; black: goal", title=quantity)
    axes.grid(alpha=0.3)


def stem(name: str, chosen: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """What a record's files are called: its name, and what was chosen that is not the default.

    So a part of a record, or another one of the same kind, does not overwrite the complete one.
    """

    def text(value: Any) -> str:
        return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    words = [f"{k} {text(v)}" for k, v in chosen.items() if text(v) != text(defaults[k])]
    return environment.slug(" ".join([name, *words]))


def write(results: Results, folder: Path, stem: str) -> None:
    """Write `<stem>.json`, `<stem>.md` and `<stem>.png` into `folder`."""
    write_atomic(folder / f"{stem}.json", to_json(results).encode())
    write_atomic(folder / f"{stem}.md", to_markdown(results).encode())
    write_atomic(folder / f"{stem}.png", to_png(results))
