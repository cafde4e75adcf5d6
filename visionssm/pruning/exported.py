"""Pruned models in timm's folder format: weights, and a config that says how they are pruned."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError

from .protocol import prune

CONFIG, WEIGHTS = "config.json", "model.safetensors"  # as timm names them


def pruning_entry(model: Any) -> dict[str, Any]:
    """What an exported model's config holds of its pruning: an entry "pruning", or nothing.

    Raises:
        ValueError: the importance is a function.
    """
    return {"pruning": model.pruning.to_dict()} if hasattr(model, "pruning") else {}


def load_exported(folder: str | os.PathLike[str]) -> Any:
    """The model of an exported folder, pruned if it was, in evaluation mode.

    ``timm.create_model('local-dir:<folder>', pretrained=True)`` gives the same one, not pruned.

    Raises:
        ValueError: the folder lacks `config.json` or `model.safetensors`, or they make no model.
    """
    missing = [name for name in (CONFIG, WEIGHTS) if not Path(folder, name).is_file()]
    if missing:
        raise ValueError(
            f"{str(folder)!r} has no {' and no '.join(missing)}: not an exported model"
        )
    try:
        model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except (KeyError, RuntimeError, SafetensorError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(f"{str(folder)!r} holds no model that timm opens: {problem}") from error
    stored = json.loads(Path(folder, CONFIG).read_text()).get("pruning")
    return model if stored is None else prune(model, **stored)
