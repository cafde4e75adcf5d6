"""What all operators share: devices, empty batches, and derivatives that they do not have."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.autograd import forward_ad

from visionssm.ops import depthwise_conv, hsm_ssd, selective_scan, ssd, state_fusion

B, L, D, N = 2, 6, 4, 3
OPERATORS = {
    "selective_scan": (
        selective_scan,
        {"u": (B, 1, L, D), "delta": (B, 2, L, D), "A": (2, D, N)}
        | dict.fromkeys(("B", "C"), (B, 2, L, N)),
    ),
    "hsm_ssd": (hsm_ssd, {"x": (B, L, D), "dt": (B, L, N), "A": (N,), "B": (B, L, N)}),
    "ssd": (
        ssd,
        {"x": (B, L, 2, D), "dt": (B, L, 2), "A": (2,)} | dict.fromkeys("BC", (B, L, 1, N)),
    ),
    "state_fusion": (state_fusion, {"x": (B, 3, 2, D), "weight": (3, 3, 3, D)}),
    "depthwise_conv": (depthwise_conv, {"x": (B, 3, 2, D), "weight": (D, 1, 3, 3)}),
}
REGISTERED = [(name, i) for name in OPERATORS for i in ("torch", "triton")]
REGISTERED.remove(("depthwise_conv", "torch"))  # is PyTorch's own convolution
REGISTERED.remove(("ssd", "torch"))  # are PyTorch's own products


def make(name, implementation, batch=B, device="cpu"):
    op, shapes = OPERATORS[name]
    torch.manual_seed(0)
    inputs = {
        key: torch.randn(*(batch if size == B and i == 0 else size for i, size in enumerate(shape)))
        for key, shape in shapes.items()
    }
    if name == "selective_scan":  # whose routes are as many as images here
        inputs["A"] = -torch.rand(2, D, N)
    if name == "ssd":  # whose heads are as many as images here
        inputs["A"] = -torch.rand(2)
    inputs = {key: value.to(device).requires_grad_() for key, value in inputs.items()}
    return partial(op, implementation=implementation), inputs


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("suffix", ["", "_backward"])
def test_operators_run_on_any_device(name, suffix):
    has_kernel = torch._C._dispatch_has_computed_kernel_for_dispatch_key
    for key in ("CPU", "CUDA", "MPS", "XPU", "PrivateUse1"):
        assert has_kernel(f"visionssm::{name}{suffix}", key)


@pytest.mark.parametrize(("name", "implementation"), REGISTERED)
def test_second_derivatives_are_refused_and_first_ones_of_graphs_are_not(name, implementation):
    op, inputs = make(name, implementation)
    loss = op(**inputs).square().sum()
    first = torch.autograd.grad(loss, list(inputs.values()), create_graph=True)
    op, fresh = make(name, implementation)
    plain = torch.autograd.grad(op(**fresh).square().sum(), list(fresh.values()))
    assert all(torch.equal(a, b) for a, b in zip(first, plain, strict=True))
    with pytest.raises(NotImplementedError, match=f"{name}: second derivatives"):
        torch.autograd.grad(sum(g.square().sum() for g in first), list(inputs.values()))


@pytest.mark.parametrize(("name", "implementation"), REGISTERED)
def test_forward_mode_is_refused(name, implementation):
    op, inputs = make(name, implementation)
    values = [value.detach() for value in inputs.values()]
    with pytest.raises(NotImplementedError, match=f"{name}: forward-mode derivatives"):
        torch.func.jvp(lambda *args: op(*args), tuple(values), tuple(map(torch.ones_like, values)))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
        op(*(forward_ad.make_dual(value, torch.ones_like(value)) for value in values))


@pytest.mark.parametrize("name", OPERATORS)
def test_reference_has_second_and_forward_mode_derivatives(name):
    op, inputs = make(name, "reference")
    doubles = tuple(value.detach().double().requires_grad_() for value in inputs.values())
    check = partial(torch.autograd.gradgradcheck, lambda *args: op(*args), doubles)
    assert check(check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)], ids=["cpu", "cuda"]
)
@pytest.mark.parametrize(("name", "implementation"), REGISTERED)
def test_an_empty_batch_gives_empty_outputs_and_gradients_of_zero(name, implementation, device):
    op, inputs = make(name, implementation, batch=0, device=device)
    _, shapes = OPERATORS[name]
    y = op(**inputs)
    full, others = make(name, "reference")
    assert y.shape == (0, *full(**others).shape[1:])
    gradients = torch.autograd.grad(y.sum(), list(inputs.values()))
    for gradient, value in zip(gradients, inputs.values(), strict=True):
        assert gradient.shape == value.shape
        assert not gradient.any()
