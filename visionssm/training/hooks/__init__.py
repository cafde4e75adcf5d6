"""What a run does besides training: one hook a file.

`ConfusionHook` and `ExportHook` are for classifiers, `PredictionsHook` for detectors and
segmentors, the others for all.
"""

from .checkpoint import LastAndBestHook
from .confusion import ConfusionHook
from .export import ExportHook
from .metrics_log import MetricsLogHook
from .nonfinite import NonFiniteLossHook
from .predictions import PredictionsHook
from .progress import ProgressHook
from .seed import SeedHook
from .summary import SummaryHook

__all__ = [
    "ConfusionHook",
    "ExportHook",
    "LastAndBestHook",
    "MetricsLogHook",
    "NonFiniteLossHook",
    "PredictionsHook",
    "ProgressHook",
    "SeedHook",
    "SummaryHook",
]
