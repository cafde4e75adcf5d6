"""Names of the models that this package registers with timm."""

from __future__ import annotations

import timm


def list_models(filter: str = "") -> list[str]:
    """Registered names of this package's models, those that match a wildcard filter if given."""
    return [
        name
        for name in timm.list_models(filter)
        if timm.model_entrypoint(name).__module__.startswith(f"{__package__}.")
    ]
