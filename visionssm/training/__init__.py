"""Classification training on mmengine's Runner; needs the `train` extra.

Configs load it with `custom_imports=dict(imports=['visionssm.training'])`; importing registers
datasets, samplers, the model wrapper, the optimizer constructor, metrics, hooks and the runner.
"""

from . import hooks
from .atomic import AtomicLocalBackend
from .classifier import ImageClassifier
from .datasets import ImageFiles
from .digits import HandwrittenDigits
from .launch import load_config, test, train, use_amp
from .loop import ResumableEpochLoop
from .metrics import TopKAccuracy
from .optim import BFloat16OptimWrapper, TimmParamGroups
from .preprocessor import MixupPreprocessor
from .runner import ClassificationRunner, read_checkpoint
from .samplers import RepeatAugSampler, SeededSampler
from .streams import ImageStream

__all__ = [
    "AtomicLocalBackend",
    "BFloat16OptimWrapper",
    "ClassificationRunner",
    "HandwrittenDigits",
    "ImageClassifier",
    "ImageFiles",
    "ImageStream",
    "MixupPreprocessor",
    "RepeatAugSampler",
    "ResumableEpochLoop",
    "SeededSampler",
    "TimmParamGroups",
    "TopKAccuracy",
    "hooks",
    "load_config",
    "read_checkpoint",
    "test",
    "train",
    "use_amp",
]
