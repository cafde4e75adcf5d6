"""Cases small enough to run through the whole pipeline on a CPU in a test."""

from __future__ import annotations

import torch

from benchmarks.registry import EAGER, VMAMBA_MIXER, BlockCase, ModelCase, ScanCase, SSDCase
from tests.models.small import SMALL

CPU = torch.device("cpu")
SCAN = ScanCase("tiny scan", 2, 4, 20, 25, 3, {"fwd": 1e6, "bwd": 1e-6}, dtype=torch.float32)
SSD, SSD_NONCAUSAL = (
    SSDCase(name, causal, 2, 70, 4, 8, 2, 5, modes=(EAGER,), dtype=torch.float32)
    for name, causal in (("tiny ssd", True), ("tiny ssd_noncausal", False))
)
BLOCK = BlockCase("tiny block", 16, 6, 2, VMAMBA_MIXER, modes=(EAGER,), dtype=torch.float32)
MODEL = ModelCase(
    "tiny model", "vmamba_pico", 2, 64, SMALL["vmamba_pico"], {"inference": 1e-3}, modes=(EAGER,),
    dtype=torch.float32,
)  # fmt: skip
