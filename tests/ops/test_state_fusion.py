"""State fusion on CPU: reference, PyTorch, the Triton kernels interpreted, and the operator."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from tests.ops.state_fusion_cases import (
    SHAPES,
    assert_results_close,
    make_inputs,
    outputs_and_gradients,
    to_double,
)
from visionssm.ops import state_fusion

triton_impl = importlib.import_module("visionssm.ops.state_fusion.triton_impl")
every_implementation = pytest.mark.parametrize("implementation", ["torch", "triton"])


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Uninitialised memory reads as NaN, so an output that is never written shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("shape", SHAPES)
def test_reference_is_three_convolutions_padded_by_their_border(shape):
    x, weight = (t.detach() for t in to_double(make_inputs(*shape)).values())
    expected = torch.zeros_like(x)
    for taps, e in zip(weight, (1, 3, 5), strict=True):
        padded = F.pad(x.permute(0, 3, 1, 2), (e, e, e, e), mode="replicate")
        kernel = taps.permute(2, 0, 1).unsqueeze(1)
        expected += F.conv2d(padded, kernel, dilation=e, groups=shape[3]).permute(0, 2, 3, 1)
    actual = state_fusion(x, weight, implementation="reference")
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@every_implementation
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_reference(implementation, shape):
    inputs = make_inputs(*shape)
    exact = outputs_and_gradients(to_double(inputs), "reference")
    assert_results_close(outputs_and_gradients(inputs, implementation), exact)


@pytest.mark.parametrize("programs", [1, 2])
def test_rows_in_one_run_or_two(programs, monkeypatch):
    monkeypatch.setattr(triton_impl, "SUM_PROGRAMS", programs)
    inputs = make_inputs(2, 7, 5, 4)  # 14 rows: several at once, several times, and a rest
    exact = outputs_and_gradients(to_double(inputs), "reference")
    assert_results_close(outputs_and_gradients(inputs, "triton"), exact)


@every_implementation
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_once(implementation, dtype):
    inputs = make_inputs(1, 1, 2, 6, dtype=dtype)
    actual = outputs_and_gradients(inputs, implementation)
    assert actual["y"].dtype == actual["grad_x"].dtype == dtype
    assert actual["grad_weight"].dtype == torch.float32
    assert_results_close(actual, outputs_and_gradients(to_double(inputs), "reference"))


def test_float64_equals_the_reference_to_its_own_precision():
    inputs = to_double(make_inputs(2, 6, 8, 3))
    exact = outputs_and_gradients(inputs, "reference")
    for name, actual in outputs_and_gradients(inputs, "torch").items():
        torch.testing.assert_close(actual, exact[name], rtol=1e-12, atol=1e-12)


@every_implementation
def test_any_strides(implementation):
    x = torch.randn(2, 4, 2, 1).permute(0, 3, 2, 1)
    weight = torch.randn(4, 3, 3, 3).permute(1, 2, 3, 0)
    views = state_fusion(x, weight, implementation=implementation)
    copies = state_fusion(x.contiguous(), weight.contiguous(), implementation=implementation)
    assert torch.equal(views, copies)
    args = (x[..., :1].expand(x.shape), x, weight, implementation)  # the gradient of a sum, say
    gradients = torch.ops.visionssm.state_fusion_backward(*args)
    assert all(t.is_contiguous() for t in (views, *gradients))  # as declared to torch.compile
    args = (*(t.contiguous() for t in args[:3]), implementation)
    for view, copy in zip(gradients, torch.ops.visionssm.state_fusion_backward(*args), strict=True):
        assert torch.equal(view, copy)


def test_opcheck_with_gradients():
    inputs = make_inputs(2, 3, 4, 5)
    torch.library.opcheck(torch.ops.visionssm.state_fusion.default, (*inputs.values(), "torch"))


@every_implementation
def test_opcheck_of_both_operators(implementation):
    x, weight = (t.detach() for t in make_inputs(2, 2, 1, 5).values())
    x, ops = x.transpose(1, 2), torch.ops.visionssm
    checks = ("test_schema", "test_faketensor")
    for op, inputs in (
        (ops.state_fusion.default, (x, weight)),
        (ops.state_fusion_backward.default, (torch.randn_like(x), x, weight)),
    ):
        torch.library.opcheck(op, (*inputs, implementation), test_utils=checks)


def test_compiles_without_graph_breaks():
    inputs = make_inputs(1, 4, 5, 3)

    def loss(x, weight):
        return state_fusion(x, weight).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(*inputs.values()), list(inputs.values()))
    actual = torch.autograd.grad(compiled(*inputs.values()), list(inputs.values()))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


def test_flops_are_those_of_three_depthwise_convolutions():
    inputs = make_inputs(2, 4, 5, 3)
    with FlopCounterMode(display=False) as counter:
        state_fusion(**inputs).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 3 * 9 * 2 * 4 * 5 * 3


@pytest.mark.parametrize(("change", "message"), [
    ({"x": torch.zeros(2, 4, 3)}, r"x: expected \(b, h, w, d\) with h, w, d >= 1, got \(2, 4, 3\)"),
    ({"x": torch.zeros(2, 0, 4, 3)}, r"x: expected \(b, h, w, d\) with h, w, d >= 1"),
    ({"weight": torch.zeros(3, 3, 3, 4)}, r"weight: expected \(3, 3, 3, 3\), got \(3, 3, 3, 4\)"),
    ({"x": torch.zeros(2, 4, 5, 3).int()}, "x: expected a real floating dtype, got torch.int32"),
    ({"weight": torch.zeros(3, 3, 3, 3, device="meta")}, "weight: expected device cpu as x, got"),
    ({"implementation": "cuda"}, "implementation: expected one of"),
])  # fmt: skip
def test_arguments_that_do_not_fit_are_named(change, message):
    inputs = {name: t.detach() for name, t in make_inputs(2, 4, 5, 3).items()}
    with pytest.raises(ValueError, match=message):
        state_fusion(**{**inputs, **change})


def test_triton_refuses_float64():
    with pytest.raises(ValueError, match="x: the Triton implementation computes in float32"):
        state_fusion(**to_double(make_inputs(1, 2, 2, 2)), implementation="triton")
