"""Vision state-space models on one selective-scan core."""

from .version import __version__

__all__ = ["__version__"]
