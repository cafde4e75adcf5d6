"""Fill the generated tables of README.md and model_cards/*.md: `python tools/make_model_cards.py`.

A table stands between `<!-- table: NAME FAMILY -->` and `<!-- end table -->`; all else in those
files is written by hand. With --check nothing is written, and a stale file is an error.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from visionssm._files import write_atomic
from visionssm.analysis.flops import count_flops, count_parameters, meta_model
from visionssm.analysis.published import FAMILIES, pretrained_cfg

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "model_cards").glob("*.md")))
TABLE = re.compile(r"(<!-- table: (\w+) (\w+) -->\n).*?(<!-- end table -->)", re.DOTALL)


def markdown(header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    """A Markdown table: first column to the left, the others to the right."""
    alignment = ("---", *("---:" for _ in header[1:]))
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in (header, alignment, *rows))


@cache
def measured(name: str) -> tuple[str, str]:
    """Parameters (M) and FLOPs (G) of a registered model, as our counters find them."""
    model = meta_model(name)
    flops = count_flops(model, pretrained_cfg(name).input_size)
    return f"{count_parameters(model) / 1e6:.2f}", f"{flops / 1e9:.2f}"


def models(family: str) -> str:
    """The short table of the README."""
    header = ("model", "parameters (M)", "FLOPs (G)", "ImageNet-1K top-1 (%), published")
    rows = FAMILIES[family].classification
    return markdown(header, ((f"`{r.model}`", *measured(r.model), r.top1) for r in rows))


def classification(family: str) -> str:
    """Measured beside published, and the weights."""
    header = (
        "model", "published as", "parameters (M), measured", "parameters, published",
        "FLOPs (G), measured", "FLOPs, published", "top-1 (%), published", "weights",
    )  # fmt: skip
    return markdown(
        header,
        (
            (
                f"`{row.model}`", row.published_name, measured(row.model)[0], row.parameters,
                measured(row.model)[1], row.flops, row.top1,
                f"[file]({pretrained_cfg(row.model).url})",
            )
            for row in FAMILIES[family].classification
        ),
    )  # fmt: skip


def detection(family: str) -> str:
    """COCO, all published."""
    header = ("backbone", "detector", "parameters", "FLOPs", "box AP", "mask AP")
    return markdown(header, ((f"`{r.model}`", *r[1:]) for r in FAMILIES[family].detection))


def segmentation(family: str) -> str:
    """ADE20K, all published."""
    header = ("backbone", "segmentor", "parameters", "FLOPs", "mIoU", "mIoU, multi-scale")
    return markdown(header, ((f"`{r.model}`", *r[1:]) for r in FAMILIES[family].segmentation))


TABLES = {table.__name__: table for table in (models, classification, detection, segmentation)}


def filled(text: str) -> str:
    """The document with every table made anew."""
    return TABLE.sub(lambda m: m[1] + TABLES[m[2]](m[3]) + m[4], text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say which files are stale")
    check = parser.parse_args().check
    stale = [path for path in DOCUMENTS if filled(path.read_text()) != path.read_text()]
    if check and stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        raise SystemExit(f"stale: {names}; run python tools/make_model_cards.py")
    for path in stale:
        write_atomic(path, filled(path.read_text()).encode())
        print(f"updated {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
