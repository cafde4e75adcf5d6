"""Scenes of handwritten digits, to detect and to segment: `tools/make_demo_data.py data/demo`.

scikit-learn's real 8 x 8 scans, enlarged smoothly, turned, thickened and coloured, partly hide each
other on textured backgrounds. The splits share no scan. In OUT:

    images/<split>/<number>.jpg
    annotations/instances_<split>.json    COCO: boxes, and masks as run lengths, of what is visible
    labels/<split>/<number>.png           for each pixel 0 on the background, 1 + digit on a digit

OUT appears when it is complete, and not before. The same packages write the same bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from visionssm.training.digits import load_split

HEIGHT, WIDTH = 320, 384
SCENES = {"train": 2500, "val": 100, "test": 200}
DIGITS = 8, 24  # in a scene, at least and at most
SIDE = 40.0, 88.0  # of a digit, in pixels
MIN_VISIBLE = 0.7  # of each digit's own pixels: nothing is nearly hidden
TRIES = 48
CONTRAST = 130.0  # distance of a digit's colour from what it covers, of 0 to 255 in each channel


class Scene(NamedTuple):
    """Pixels (h, w, 3) uint8; which of the digits is seen where (h, w), -1 none; their classes."""

    pixels: np.ndarray
    owner: np.ndarray
    classes: list[int]


def make_scene(scans: np.ndarray, classes: np.ndarray, seed: Sequence[int]) -> Scene:
    """Compose one scene.

    Args:
        scans: (n, 8, 8), from 0 to 1.
        classes: (n,), 0 to 9.
        seed: the scene is a function of it.
    """
    rng = np.random.default_rng(seed)
    canvas = background(rng)
    owner = np.full((HEIGHT, WIDTH), -1)
    found: list[int] = []
    areas, visible = np.zeros((2, DIGITS[1]), int)
    wanted = rng.integers(DIGITS[0], DIGITS[1] + 1)
    for _ in range(TRIES):
        pick = rng.integers(len(scans))
        opacity = enlarge(rng, scans[pick])
        window = place(rng, opacity.shape)
        mask, below = opacity >= 0.5, owner[window]
        left = visible - np.bincount(below[mask & (below >= 0)], minlength=len(areas))
        if (left < MIN_VISIBLE * areas).any():
            continue
        areas[len(found)] = left[len(found)] = mask.sum()
        visible = left
        below[mask] = len(found)
        found.append(int(classes[pick]))
        pixels = canvas[window]
        colour = contrasting_colour(rng, pixels[mask].mean(0))
        shade = 1 + rng.uniform(-0.2, 0.2) * np.linspace(-1, 1, len(mask))[:, None, None]
        pixels += opacity[..., None] * (colour * shade - pixels)
        if len(found) == wanted:
            break
    canvas += rng.uniform(0, 6) * rng.standard_normal(canvas.shape, np.float32)
    return Scene(canvas.clip(0, 255).round().astype(np.uint8), owner, found)


def background(rng: np.random.Generator) -> np.ndarray:
    """Noise of four grain sizes and stripes over a colour: (h, w, 3), about 0 to 255."""
    canvas = np.tile(rng.uniform(40, 215, 3).astype(np.float32), (HEIGHT, WIDTH, 1))
    for grain, strength in ((64, 30), (24, 15), (8, 10), (2, 4)):
        cells = HEIGHT // grain + 2, WIDTH // grain + 2, 3
        noise = strength * rng.standard_normal(cells, np.float32)
        for channel in range(3):
            coarse = Image.fromarray(noise[..., channel])
            canvas[..., channel] += coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    angle, period = rng.uniform(0, math.pi), rng.uniform(6, 40)
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    phase = (x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / period
    canvas += rng.normal(0, 10, 3) * np.sin(phase)[..., None]
    return canvas


def enlarge(rng: np.random.Generator, scan: np.ndarray) -> np.ndarray:
    """A scan (8, 8) as opacity in its box, scaled, turned, sheared and of some thickness."""
    side = rng.uniform(*SIDE)
    aspect, angle, shear = rng.uniform(0.75, 1.1), rng.normal(0, 0.2), rng.normal(0, 0.1)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    pull = turn @ np.array([[1 / aspect, shear], [0, 1]]) * len(scan) / side
    padded = np.pad(scan, 3).astype(np.float32)
    out = math.ceil(1.5 * side)
    shift = len(padded) / 2 - pull @ [out / 2, out / 2]
    smooth = np.asarray(
        Image.fromarray(padded).transform(
            (out, out),
            Image.Transform.AFFINE,
            (*pull[0], shift[0], *pull[1], shift[1]),
            Image.Resampling.BICUBIC,
        )
    )
    edge = len(scan) / side  # one pixel wide where ink fades within one of the scan's
    opacity = np.clip((smooth - rng.uniform(0.27, 0.45)) / edge + 0.5, 0, 1)
    rows, columns = (np.flatnonzero(opacity.any(axis)) for axis in (1, 0))
    return opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def place(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """A window of that shape somewhere in the image."""
    top, left = rng.integers(HEIGHT - shape[0] + 1), rng.integers(WIDTH - shape[1] + 1)
    return slice(top, top + shape[0]), slice(left, left + shape[1])


def contrasting_colour(rng: np.random.Generator, behind: np.ndarray) -> np.ndarray:
    while True:
        colour = rng.uniform(0, 255, 3)
        if np.linalg.norm(colour - behind) > CONTRAST:
            return colour


def annotations(scene: Scene) -> list[dict]:
    """COCO's annotations of a scene, without ids."""
    found = []
    for i, digit in enumerate(scene.classes):
        mask = scene.owner == i
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        left, top = int(columns[0]), int(rows[0])
        found.append(
            {
                "category_id": 1 + digit,
                "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
            }
        )
    return found


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths: column by column, zeros first."""
    flat = np.concatenate([[False], mask.ravel("F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()


def write_scene(split: str, folder: Path, number: int) -> list[dict]:
    """Write the files of one scene and return its annotations."""
    scans, classes, _ = load_split(split)
    scene = make_scene(scans, classes, (list(SCENES).index(split), number))
    name = f"{number:06d}"
    image = Image.fromarray(scene.pixels)
    image.save(folder / "images" / split / f"{name}.jpg", quality=95, subsampling=0)
    labels = np.array([*(1 + digit for digit in scene.classes), 0], np.uint8)[scene.owner]
    Image.fromarray(labels).save(folder / "labels" / split / f"{name}.png")
    return annotations(scene)


def write_split(split: str, count: int, folder: Path) -> None:
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True)
    with multiprocessing.Pool() as pool:
        scenes = pool.map(partial(write_scene, split, folder), range(count), chunksize=4)
    objects = [{"image_id": i, **found} for i, scene in enumerate(scenes) for found in scene]
    content = {
        "images": [
            {"id": i, "file_name": f"{i:06d}.jpg", "height": HEIGHT, "width": WIDTH}
            for i in range(count)
        ],
        "annotations": [{"id": 1 + i, **found} for i, found in enumerate(objects)],
        "categories": [{"id": 1 + digit, "name": str(digit)} for digit in range(10)],
    }
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, separators=(",", ":")))


def make_demo_data(folder: Path, scenes: Mapping[str, int]) -> None:
    """Write `scenes[split]` scenes of each split into `folder`, which must not exist.

    Raises:
        ValueError: it does, or a number is not positive.
    """
    if folder.exists():
        raise ValueError(f"out={str(folder)!r} exists: remove it, or name another folder")
    for split, count in scenes.items():
        if count < 1:
            raise ValueError(f"{split}={count}: expected a positive number of scenes")
    partial_folder = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial_folder, ignore_errors=True)  # of a run that was killed
    for split, count in scenes.items():
        write_split(split, count, partial_folder)
    os.replace(partial_folder, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("out", type=Path, help="folder to create")
    for split, count in SCENES.items():
        parser.add_argument(f"--{split}", type=int, default=count, help="scenes; %(default)s")
    args = parser.parse_args()
    try:
        make_demo_data(args.out, {split: getattr(args, split) for split in SCENES})
    except ValueError as error:
        parser.error(str(error))
    print(f"{args.out}: {args.train} + {args.val} + {args.test} scenes")


if __name__ == "__main__":
    main()
