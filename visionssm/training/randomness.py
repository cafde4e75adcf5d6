"""Randomness as a function of position, never of what was drawn before.

Every epoch, step and sample gets a seed derived from the run's seed and its own coordinates. A run
that stops and resumes at any step therefore repeats exactly what an uninterrupted run would have
drawn, without storing a generator's state, and for any number of data loading workers.
"""

import random

import numpy as np
import torch


def derive_seed(*coordinates: int) -> int:
    """Hash non-negative integers, such as (seed, rank, step), to a seed in [0, 2**63)."""
    return int(np.random.SeedSequence(coordinates).generate_state(1, np.uint64)[0] >> 1)


def seed_generators(seed: int) -> None:
    """Seed Python, NumPy, torch and, where CUDA is in use, its current device.

    `torch.manual_seed` is avoided: called once a sample in a worker without CUDA it would queue
    a lazy CUDA call each time.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (timm draws from the global state)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
