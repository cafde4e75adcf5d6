"""What a run does besides training: one hook a file, usable in any classification config."""

from .checkpoint import LastAndBestHook
from .confusion import ConfusionHook
from .export import ExportHook
from .metrics_log import MetricsLogHook
from .nonfinite import NonFiniteLossHook
from .progress import ProgressHook
from .seed import SeedHook
from .summary import SummaryHook

__all__ = [
    "ConfusionHook",
    "ExportHook",
    "LastAndBestHook",
    "MetricsLogHook",
    "NonFiniteLossHook",
    "ProgressHook",
    "SeedHook",
    "SummaryHook",
]
