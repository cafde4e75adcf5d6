"""Pruned models in timm's folder format: weights, and a config that says how they are pruned."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from timm.models import save_for_hf

from .._files import write_atomic
from .protocol import prune

CONFIG, WEIGHTS = "config.json", "model.safetensors"  # as timm names them


def pruning_entry(model: Any) -> dict[str, Any]:
    """What an exported model's config holds of its pruning: an entry "pruning", or nothing.

    Raises:
        ValueError: the importance is a function.
    """
    return {"pruning": model.pruning.to_dict()} if hasattr(model, "pruning") else {}


def save_exported(
    model: Any,
    folder: str | os.PathLike[str],
    model_config: dict[str, Any] | None = None,
    data_config: dict[str, Any] | None = None,
) -> None:
    """Write `model.safetensors` and `config.json`; each appears whole or not at all.

    Args:
        model: one that `timm.create_model` built, pruned or not.
        folder: where to; it is made, and other files in it are left alone.
        model_config: more for the config, as `timm.models.save_for_hf` takes it.
        data_config: preprocessing, in the words of `timm.data.create_transform`; by default that
            of the model's `pretrained_cfg`.

    Raises:
        ValueError: the model is pruned by a function.
    """
    config = {**(model_config or {}), **pruning_entry(model)}
    with tempfile.TemporaryDirectory() as temporary:
        save_for_hf(model, temporary, config, safe_serialization=True, data_config=data_config)
        for file in Path(temporary).iterdir():
            write_atomic(Path(folder, file.name), file.read_bytes())


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
