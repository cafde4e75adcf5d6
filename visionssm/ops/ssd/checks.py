"""Argument checks of `ssd` and `ssd_noncausal`: errors name the argument, what came, what fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from ..dispatch import FLOATING


def check_ssd_args(x: Tensor, B: Tensor, others: Mapping[str, tuple[Tensor | None, str]]) -> None:
    """Raise ValueError unless the tensors form a valid call.

    Args:
        x: expected to be (b, l, h, p).
        B: expected to be (b, l, g, n).
        others: name -> tensor and its shape in the letters of x and B; forms of the shape are
            separated by a space. A tensor that is None is left out.
    """
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(f"x: expected (b, l, h, p) with l, h, p >= 1, got {tuple(x.shape)}")
    b, l, h, _ = x.shape
    if B.dim() != 4 or tuple(B.shape[:2]) != (b, l) or B.shape[2] == 0 or h % B.shape[2]:
        raise ValueError(
            f"B: expected ({b}, {l}, g, n) with g a divisor of {h}, got {tuple(B.shape)}"
        )
    sizes = dict(zip("blhpgn", (*x.shape, *B.shape[2:]), strict=True))
    for name, (tensor, forms) in {"x": (x, "blhp"), "B": (B, "blgn"), **others}.items():
        if tensor is None:
            continue
        accepted = [tuple(sizes[letter] for letter in form) for form in forms.split()]
        if tuple(tensor.shape) not in accepted:
            expected = " or ".join(map(str, accepted))
            raise ValueError(f"{name}: expected {expected}, got {tuple(tensor.shape)}")
        if tensor.dtype not in FLOATING:
            raise ValueError(f"{name}: expected a real floating dtype, got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"{name}: expected device {x.device} as x, got {tensor.device}")


def choose_implementation(implementations: Mapping[str, Callable], name: str) -> Callable:
    """The implementation of that name; ValueError if there is none."""
    if name not in implementations:
        raise ValueError(f"implementation: expected one of {sorted(implementations)}, got {name!r}")
    return implementations[name]
