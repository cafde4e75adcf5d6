"""Token pruning: fewer tokens, the same clock; `protocol` says how a model takes part."""

from .importance import IMPORTANCES, BlockOutput
from .protocol import Pruning, prune, register_pruned_form, unprune
from .schedule import PUBLISHED_SCHEDULES, Schedule
from .vim import PrunedVim
from .vmamba import PrunedVMamba

__all__ = [
    "IMPORTANCES",
    "PUBLISHED_SCHEDULES",
    "BlockOutput",
    "PrunedVMamba",
    "PrunedVim",
    "Pruning",
    "Schedule",
    "prune",
    "register_pruned_form",
    "unprune",
]
