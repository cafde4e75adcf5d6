"""Where the tests run: CUDA tests skip without a device, Triton is interpreted on CPU.

With a device in sight nothing is interpreted: run `-m gpu` there, or hide it (`make test` does).
"""

from __future__ import annotations

import gc
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before any kernel is decorated
    from tests.interpreter import speed_up

    speed_up()

from tests.meta_tensors import skip_initialisation  # after the above: timm may import Triton

skip_initialisation()

# Traces of models leave a million objects: by default walking them takes 6 % of the suite.
gc.set_threshold(10_000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
