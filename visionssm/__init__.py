"""Vision state-space models on one selective-scan core."""

from .models import accelerate, from_official, list_models
from .pruning import prune, unprune
from .version import __version__

__all__ = ["__version__", "accelerate", "from_official", "list_models", "prune", "unprune"]
