"""scikit-learn's handwritten digits: 1,797 real 8 x 8 scans that ship inside the package."""

import functools

import numpy as np
from mmengine.registry import DATASETS
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from .datasets import ClassificationDataset

SPLITS = ("train", "val", "test")


@functools.cache
def load_split(split: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scans (n, 8, 8) from 0 to 1, their digits (n,) and their numbers in scikit-learn (n,).

    Raises:
        ValueError: unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: expected one of {SPLITS}")
    digits = load_digits()
    indices = np.arange(len(digits.target))
    indices, test = train_test_split(
        indices, test_size=360, stratify=digits.target, random_state=seed
    )
    train, val = train_test_split(
        indices, test_size=180, stratify=digits.target[indices], random_state=seed
    )
    chosen = {"train": train, "val": val, "test": test}[split]
    return digits.images[chosen] / 16, digits.target[chosen], chosen


@DATASETS.register_module()
class HandwrittenDigits(ClassificationDataset):
    """UCI optical digits (Alpaydin & Kaynak 1998) in a fixed stratified split.

    Args:
        split: `train` (1,257 scans), `val` (180) or `test` (360).
        transform: arguments of `timm.data.create_transform`, which also upsamples.
        seed: of the split, not of the training run.

    Raises:
        ValueError: unknown split.
    """

    def __init__(self, split: str, transform: dict, seed: int = 0) -> None:
        scans, self.labels, self.indices = load_split(split, seed)
        self.pixels = (scans * 255).astype(np.uint8)
        super().__init__(len(self.indices), [str(digit) for digit in range(10)], transform)

    def load(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[index]).convert("RGB"), int(self.labels[index])

    def path(self, index: int) -> str:
        return f"sklearn.datasets.load_digits#{self.indices[index]}"
