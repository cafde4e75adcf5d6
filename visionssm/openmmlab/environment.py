"""The packages that the adapters need: whether they are there and fit each other."""

from __future__ import annotations

import importlib
from importlib.util import find_spec

FORKS = "pip install 'onedl-mmdetection>=3.5.1' 'onedl-mmsegmentation>=1.4.2'"
# mmcv compiles its operations only where it sees torch, which pip's isolated builds do not.
MISSING = "pip install --no-build-isolation 'visionssm[openmmlab]'"
TOOLBOXES = ("mmdet", "mmseg")


def check_packages() -> None:
    """Import mmengine, mmcv's compiled operations and every toolbox that is installed.

    Raises:
        ImportError: one is missing, lacks its compiled part or refuses the version of another; the
            message holds the command that mends it.
    """
    for package in ("mmengine", "mmcv"):
        if find_spec(package) is None:
            raise ImportError(f"visionssm.openmmlab needs {package}: {MISSING}")
    if not any(find_spec(toolbox) for toolbox in TOOLBOXES):
        raise ImportError(f"visionssm.openmmlab needs mmdet or mmseg: {MISSING}")
    try:
        importlib.import_module("mmcv.ops")
    except ImportError as error:
        raise ImportError(
            "the installed mmcv has no compiled operations, or ones of another torch "
            f"({error}); build them: pip uninstall -y mmcv-lite && pip install --no-deps "
            "--no-build-isolation --force-reinstall 'onedl-mmcv>=2.3.6'"
        ) from error
    for toolbox in filter(find_spec, TOOLBOXES):
        try:
            importlib.import_module(toolbox)
        except (AssertionError, ImportError) as error:
            raise ImportError(
                f"the installed {toolbox} does not fit the other packages ({error}); its "
                f"maintained fork does: pip uninstall -y mmdet mmsegmentation && {FORKS}"
            ) from error
