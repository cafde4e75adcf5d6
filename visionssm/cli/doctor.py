"""`visionssm doctor`: what is installed, what will run, and are its numbers right."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from ..analysis.self_check import SELF_CHECKS, TOLERANCE, WITHOUT_KERNELS
from ..ops.dispatch import TRITON_INSTALLED, numba_works, resolve_implementation
from ..version import __version__

MODULES = (
    "torch", "triton", "numba", "timm", "safetensors", "numpy",
    "mmengine", "mmcv", "mmdet", "mmseg",
)  # fmt: skip
SCAN = "selective_scan"  # the op that Numba has an implementation of
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def add_parser(subparsers: Any) -> None:
    """Declare `visionssm doctor`."""
    parser = subparsers.add_parser(
        "doctor", help="versions, devices, which implementation runs and why, and a self-check"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 if every self-check passed, else 1."""
    report = diagnose()
    print(json.dumps(report, indent=2) if args.json else format_report(report))
    return 0 if report["passed"] else 1


def diagnose() -> dict[str, Any]:
    """Everything doctor knows, as plain JSON types."""
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
    self_checks = [
        self_check(op, device, implementation)
        for op in SELF_CHECKS
        for device in devices
        for implementation in available_implementations(device)
        if implementation != "triton" or op not in WITHOUT_KERNELS
        if implementation != "numba" or op == SCAN
    ]
    return {
        "versions": versions(),
        "devices": describe_devices(),
        "implementations": [
            describe_implementation(op, device, dtype)
            for device in devices
            for op in (SCAN, "other ops")
            for dtype in DTYPES
        ],
        "triton_cache": triton_cache(),
        "self_check": self_checks,
        "passed": all(check["passed"] for check in self_checks),
    }


def versions() -> dict[str, str]:
    """Version of visionssm, Python, CUDA, the driver and each of MODULES; "absent" if not there."""
    found = {"visionssm": __version__, "python": platform.python_version()}
    distributions = importlib.metadata.packages_distributions()
    for module in MODULES:
        names = distributions.get(module)
        found[module] = importlib.metadata.version(names[0]) if names else "absent"
    found["cuda (torch)"] = torch.version.cuda or "absent"
    found["nvidia driver"] = _driver_version()
    return found


def _driver_version() -> str:
    if shutil.which("nvidia-smi") is None:
        return "absent"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout.splitlines()[0] if answer.returncode == 0 else "nvidia-smi fails"


def describe_devices() -> dict[str, str]:
    """Device name -> what it is."""
    devices = {"cpu": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = (
            f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, "
            f"compute capability {gpu.major}.{gpu.minor}"
        )
    return devices


def describe_implementation(op: str, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """What "auto" runs on this device and dtype, of the scan or of other ops, and why."""
    implementation = resolve_implementation("auto", device, dtype, has_numba=op == SCAN)
    if implementation == "triton":
        why = "CUDA tensors, and Triton imports"
    elif implementation == "numba":
        why = "CPU tensors, and Numba imports"
    elif device.type == "cuda":
        why = "Triton does not import: install it to run the fast kernels"
    elif op == SCAN:
        why = "Numba does not import: pip install 'visionssm[cpu]' for a faster one"
    else:
        why = "tensors off CUDA take the PyTorch implementation"
    return {
        "op": op,
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "implementation": implementation,
        "why": why,
    }


def available_implementations(device: torch.device) -> list[str]:
    """The implementations that can run on `device`, the reference first."""
    names = ["reference", "torch"]
    if device.type == "cpu" and numba_works():
        names.append("numba")
    if device.type == "cuda" and TRITON_INSTALLED:
        names.append("triton")
    return names


def self_check(op: str, device: torch.device, implementation: str) -> dict[str, Any]:
    """Errors of one implementation against the float64 reference; a crash is a failed check."""
    check = {"op": op, "device": device.type, "implementation": implementation}
    try:
        errors = SELF_CHECKS[op](device, implementation)
    except Exception as error:  # a compiler or driver fault is what doctor is there to report
        return check | {"passed": False, "crash": f"{type(error).__name__}: {error}"}
    passed = all(error <= TOLERANCE for error in errors.values())  # False for NaN
    return check | {"passed": passed, "tolerance": TOLERANCE, "errors": errors}


def triton_cache() -> dict[str, Any]:
    """Where Triton keeps compiled kernels, and how much is there."""
    home = os.environ.get("TRITON_HOME", str(Path.home()))
    path = Path(os.environ.get("TRITON_CACHE_DIR", Path(home) / ".triton" / "cache"))
    size = 0
    for file in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process may be compiling
            size += file.stat().st_size
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return {
        "path": str(path),
        "entries": sum(1 for entry in path.iterdir()) if path.is_dir() else 0,
        "bytes": size,
        "writable": os.access(existing, os.W_OK),
    }


def format_report(report: dict[str, Any]) -> str:
    """The report for people: a section a key of `diagnose`, a line a fact."""
    cache = report["triton_cache"]
    sections = {
        "Versions": [f"{name:<16}{version}" for name, version in report["versions"].items()],
        "Devices": [f"{name:<16}{text}" for name, text in report["devices"].items()],
        "Implementations chosen by 'auto'": [
            f"{row['op']:<16}{row['device']:<6}{row['dtype']:<10}{row['implementation']:<8}({row['why']})"
            for row in report["implementations"]
        ],
        "Triton cache": [
            f"{cache['path']}: {cache['entries']} entries, {cache['bytes'] / 2**20:.1f} MiB, "
            f"{'writable' if cache['writable'] else 'NOT WRITABLE'}"
        ],
        "Self-check: error against the float64 reference, relative to the largest value": [
            _format_check(check) for check in report["self_check"]
        ],
    }
    lines = [
        line
        for title, facts in sections.items()
        for line in (title, *(f"  {fact}" for fact in facts), "")
    ]
    return "\n".join([*lines, "All checks passed." if report["passed"] else "A check FAILED."])


def _format_check(check: dict[str, Any]) -> str:
    head = f"{check['op']:<16}{check['device']:<6}{check['implementation']:<11}"
    if "crash" in check:
        return f"{head}FAIL  {check['crash']}"
    errors = check["errors"]
    values = max(error for name, error in errors.items() if not name.startswith("grad_"))
    gradients = max(error for name, error in errors.items() if name.startswith("grad_"))
    return (
        f"{head}{'PASS' if check['passed'] else 'FAIL'}  values {values:.1e}  "
        f"gradients {gradients:.1e}  (limit {check['tolerance']:.1e})"
    )
