"""Where numbers were measured: hardware, versions and the switches that change them."""

from __future__ import annotations

import datetime
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

from visionssm.cli.doctor import versions

VERSIONS = (
    "visionssm", "python", "torch", "triton", "numba", "timm", "cuda (torch)", "nvidia driver",
)  # fmt: skip


def device_name(device: torch.device) -> str:
    """The name that the maker gave the GPU or the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(
        r"^model name\s*:\s*(.+)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.M
    )
    return found[1].strip() if found else platform.processor() or platform.machine()


def slug(text: str) -> str:
    """Lower-case words joined by hyphens, fit for a file name."""
    return "-".join(re.findall(r"[a-z0-9]+", text.lower().replace("(r)", "")))


def describe(device: torch.device) -> dict[str, Any]:
    """Facts by name, as JSON types."""
    found = versions()
    facts: dict[str, Any] = {
        "device": device_name(device),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **{name: found[name] for name in VERSIONS},
        "float32 matmul precision": torch.get_float32_matmul_precision(),
    }
    if device.type == "cuda":
        facts["TF32 in matmul"] = torch.backends.cuda.matmul.allow_tf32
        facts["TF32 in cuDNN"] = torch.backends.cudnn.allow_tf32
        facts["cuDNN benchmark"] = torch.backends.cudnn.benchmark
    else:
        facts["threads"] = torch.get_num_threads()
        facts["cores"] = os.cpu_count()
        facts["load average before"] = os.getloadavg()[0]
    return facts
