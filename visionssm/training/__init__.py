"""Training on mmengine's Runner: classification, and what all tasks share; the `train` extra.

Configs load it with `custom_imports=dict(imports=['visionssm.training'])`; importing registers
datasets, samplers, the model wrapper, the optimizer constructor, metrics, hooks and the runners.
"""

from . import hooks
from .atomic import AtomicLocalBackend
from .classifier import ImageClassifier
from .datasets import ImageFiles
from .digits import HandwrittenDigits
from .fashion_mnist import FashionMNIST
from .launch import leave_process_group, load_config, test, train, use_amp
from .loop import ResumableEpochLoop
from .metrics import TopKAccuracy
from .optim import BFloat16OptimWrapper, TimmParamGroups, bfloat16_autocast
from .preprocessor import MixupPreprocessor
from .runner import ClassificationRunner, StrictRunner, read_checkpoint
from .samplers import RepeatAugSampler, SeededSampler, SeedSample
from .streams import ImageStream

__all__ = [
    "AtomicLocalBackend",
    "BFloat16OptimWrapper",
    "ClassificationRunner",
    "FashionMNIST",
    "HandwrittenDigits",
    "ImageClassifier",
    "ImageFiles",
    "ImageStream",
    "MixupPreprocessor",
    "RepeatAugSampler",
    "ResumableEpochLoop",
    "SeedSample",
    "SeededSampler",
    "StrictRunner",
    "TimmParamGroups",
    "TopKAccuracy",
    "bfloat16_autocast",
    "hooks",
    "leave_process_group",
    "load_config",
    "read_checkpoint",
    "test",
    "train",
    "use_amp",
]
