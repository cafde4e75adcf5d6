"""A data set of Fashion-MNIST's form, made up."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_noise_and_black(folder: Path, side: int, train: int, test: int) -> None:
    """Noise (class 0) and black images (class 1); training files compressed, test files not."""
    rng = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = np.arange(count) % 2
        images = rng.integers(0, 256, (count, side, side)) * (labels == 0)[:, None, None]
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{prefix}-{name}-ubyte"
            if prefix == "train":
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx(array)))
            else:
                path.write_bytes(idx(array))
