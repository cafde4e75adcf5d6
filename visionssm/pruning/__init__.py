"""Token pruning: fewer tokens, the same clock; `protocol` says how a model takes part."""

from .calibration import calibrate
from .exported import load_exported, pruning_entry, save_exported
from .importance import IMPORTANCES, BlockOutput
from .protocol import KeptPatches, Pruning, prune, register_pruned_form, unprune
from .schedule import PUBLISHED_SCHEDULES, Schedule
from .vim import PrunedVim
from .vmamba import PrunedVMamba

__all__ = [
    "IMPORTANCES",
    "PUBLISHED_SCHEDULES",
    "BlockOutput",
    "KeptPatches",
    "PrunedVMamba",
    "PrunedVim",
    "Pruning",
    "Schedule",
    "calibrate",
    "load_exported",
    "prune",
    "pruning_entry",
    "register_pruned_form",
    "save_exported",
    "unprune",
]
