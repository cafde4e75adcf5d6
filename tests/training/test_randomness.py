"""Seeds are functions of coordinates and govern every generator in use."""

import random

import numpy as np
import torch

from visionssm.training.randomness import derive_seed, seed_generators


def test_neighbouring_coordinates_give_different_seeds_that_never_change():
    seeds = {derive_seed(0, epoch, step) for epoch in range(30) for step in range(30)}
    assert len(seeds) == 900
    assert derive_seed(1, 2, 3) == derive_seed(1, 2, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeding_repeats_python_numpy_and_torch():
    def draw():
        legacy = np.random.rand()  # noqa: NPY002  (the generator that timm draws from)
        return random.random(), legacy, torch.rand(()).item()

    seed_generators(derive_seed(7))
    first = draw()
    seed_generators(derive_seed(7))
    assert draw() == first
    seed_generators(derive_seed(8))
    assert all(a != b for a, b in zip(draw(), first, strict=True))
