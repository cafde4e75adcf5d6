"""Parameters and FLOPs of a model, without computing anything: on the meta device."""

from __future__ import annotations

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def meta_model(name: str, in_chans: int = 3) -> nn.Module:
    """A registered model on the meta device, in evaluation mode: shapes without memory.

    Raises:
        RuntimeError: the name is not registered (from timm).
    """
    with torch.device("meta"):
        return timm.create_model(name, in_chans=in_chans).eval()


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, buffers not included."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """FLOPs to run `model` on one image; one multiply-add counts as two.

    Counted are matrix products, convolutions and scans (by the formulas that our ops register).
    Norms, activations and other elementwise work are not.

    Args:
        model: on any device; on the meta device counting takes neither time nor memory.
        input_size: channels, height and width of the image.
    """
    parameter = next(model.parameters())
    image = torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    return counter.get_total_flops()
