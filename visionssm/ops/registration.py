"""How a pair of operators, forward and backward, becomes known to PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad


def register_operators(
    library: torch.library.Library,
    name: str,
    *,
    forward: Callable,
    backward: Callable,
    forward_fake: Callable,
    backward_fake: Callable,
    setup_context: Callable,
    autograd: Callable,
) -> None:
    """Register `visionssm::name` and `visionssm::name_backward`, which `library` has defined.

    Both run on any device, and choose their implementation themselves. The derivative of the
    backward operator is an error: PyTorch would differentiate what its implementation happens to
    be made of.

    Args:
        library: holds the registrations.
        name: of the forward operator.
        forward: computes the forward operator.
        backward: computes the backward operator.
        forward_fake: empty outputs of its shapes, dtypes and strides.
        backward_fake: the same of the backward operator.
        setup_context: saves for the backward pass.
        autograd: gradients from those of the outputs, by the backward operator.
    """
    for operator, implementation, fake in (
        (name, forward, forward_fake),
        (f"{name}_backward", backward, backward_fake),
    ):
        library.impl(operator, implementation, "CompositeExplicitAutograd")
        torch.library.register_fake(f"visionssm::{operator}", fake, lib=library)

    def refuse(ctx: Any, *gradients: Any) -> None:
        raise NotImplementedError(
            f"{name}: second derivatives are not implemented; implementation='reference' has them"
        )

    torch.library.register_autograd(
        f"visionssm::{name}", autograd, setup_context=setup_context, lib=library
    )
    torch.library.register_autograd(f"visionssm::{name}_backward", refuse, lib=library)


def refuse_forward_mode(name: str) -> None:
    """Raise NotImplementedError in forward-mode differentiation, which would lose the tangents."""
    if forward_ad._current_level >= 0:
        raise NotImplementedError(
            f"{name}: forward-mode derivatives are not implemented; implementation='reference' "
            "has them"
        )
