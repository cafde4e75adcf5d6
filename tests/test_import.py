"""What `import visionssm` needs and costs, and which floor may import which (DESIGN: Floors)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "visionssm"
OPTIONAL = (
    "mmengine", "mmcv", "mmdet", "mmseg", "cv2", "matplotlib", "sklearn", "tensorboard", "tqdm",
    "onnx", "onnxscript", "triton", "numba",
)  # fmt: skip
EXTRA_SECONDS = 0.3

# From the ground up; "" is visionssm/__init__.py, through which a program sees everything up to
# models and their pruning. Parts that share a floor do not import each other.
FLOORS = (
    {"version", "_files"},
    {"ops"},
    {"scans"},
    {"layers"},
    {"models"},
    {"pruning"},
    {""},
    {"training", "openmmlab", "analysis"},
    {"cli"},
    {"__main__"},
)
HEIGHT = {part: height for height, floor in enumerate(FLOORS) for part in floor}


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_needs_torch_and_timm_alone():
    run_python(
        f"import sys\n"
        f"for name in {OPTIONAL}: sys.modules[name] = None  # importing it now raises\n"
        f"import visionssm, timm, visionssm.cli.main\n"
    )


def test_import_costs_no_more_than_timm_and_a_little():
    """The best of five runs counts: other work on the machine only ever adds time."""
    code = (
        "import time, timm\n"
        "start = time.perf_counter()\n"
        "import visionssm\n"
        "print(time.perf_counter() - start)\n"
    )
    seconds = []
    while len(seconds) < 5 and min(seconds, default=1.0) > EXTRA_SECONDS:
        seconds.append(float(run_python(code)))
    assert min(seconds) <= EXTRA_SECONDS, f"seconds after `import timm`: {seconds}"


def part_of(module: str) -> str:
    """ "visionssm.ops.selective_scan" -> "ops"; "visionssm" -> ""."""
    return (module.split(".") + [""])[1]


def imported_modules(file: Path) -> set[str]:
    """Absolute names of the modules that a file of the package imports, anywhere in its text.

    `from x import y` counts as x, and as x.y when x is the package itself, where y may be a part.
    """
    package = ("visionssm", *file.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            if module == "visionssm":
                parts = {alias.name for alias in node.names if alias.name in HEIGHT}
                found |= {f"visionssm.{name}" for name in parts} or {module}
            else:
                found.add(module)
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_imports_only_from_floors_below(file):
    own = part_of(".".join(("visionssm", *file.relative_to(PACKAGE).with_suffix("").parts)))
    own = "" if own == "__init__" else own
    assert own in HEIGHT, f"{own}: say in FLOORS on which floor it stands"
    for module in imported_modules(file):
        if module.split(".")[0] != "visionssm":
            continue
        part = part_of(module)
        assert part == own or HEIGHT[part] < HEIGHT[own], f"{file} imports {module}"


@pytest.mark.parametrize("part", ["ops", "scans"])
def test_numerics_stand_on_torch_alone(part):
    for file in (PACKAGE / part).rglob("*.py"):
        tops = {module.split(".")[0] for module in imported_modules(file)}
        assert not tops & {"timm", "mmengine", "mmcv", "mmdet", "mmseg"}, file


def test_floor_check_sees_an_upward_import(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    file = tmp_path / "ops" / "scan.py"
    file.parent.mkdir()
    file.write_text("def f():\n    from ..layers import ss2d\n    from .. import models\n")
    assert imported_modules(file) == {"visionssm.layers", "visionssm.models"}
