"""Depthwise convolution on CPU: reference, PyTorch, the kernels interpreted, and the operator."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from tests.ops.depthwise_conv_cases import (
    CASES,
    Case,
    assert_results_close,
    make_inputs,
    outputs_and_gradients,
    to_double,
)
from visionssm.ops import depthwise_conv

every_implementation = pytest.mark.parametrize("implementation", ["torch", "triton"])


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Uninitialised memory reads as NaN, so an output that is never written shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("case", CASES)
def test_reference_is_a_convolution_of_each_channel(case):
    x, weight, bias = (t.detach() for t in to_double(make_inputs(case)).values())
    (kh, kw), expected = case.taps, []
    for j in range(len(weight)):
        top, left = case.padding or (kh // 2, kw // 2)
        if case.mirrored and j // case.d % 2:
            top, left = kh - 1 - top, kw - 1 - left
        padded = F.pad(x[..., j % case.d], (left, kw - 1 - left, top, kh - 1 - top))
        expected.append(F.conv2d(padded[:, None], weight[j : j + 1], bias[j : j + 1])[:, 0])
    expected = torch.stack(expected, -1)
    actual = depthwise_conv(x, weight, bias, **case.options, implementation="reference")
    torch.testing.assert_close(
        actual, F.silu(expected) if case.activation else expected, rtol=1e-12, atol=1e-12
    )


@every_implementation
@pytest.mark.parametrize("case", CASES)
def test_equals_reference(implementation, case):
    inputs = make_inputs(case)
    exact = outputs_and_gradients(to_double(inputs), case, "reference")
    actual = outputs_and_gradients(inputs, case, implementation)
    assert_results_close(actual, exact, case.activation is not None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_dtypes_of_its_arguments(dtype):
    case = CASES[1]
    inputs = make_inputs(case, dtype=dtype)
    actual = outputs_and_gradients(inputs, case, "triton")
    assert actual["y"].dtype == actual["grad_x"].dtype == dtype
    assert actual["grad_weight"].dtype == actual["grad_bias"].dtype == torch.float32
    # float32 to bfloat16 truncates in the interpreter: one rounding is up to two of those bounded
    exact = outputs_and_gradients(to_double(inputs), case, "reference")
    for name, expected in exact.items():
        error = float((actual[name].double() - expected).norm() / expected.norm())
        assert error <= 4 * torch.finfo(dtype).eps, name


def test_float64_equals_the_reference_to_its_own_precision():
    inputs = to_double(make_inputs(CASES[-1]))
    exact = outputs_and_gradients(inputs, CASES[-1], "reference")
    for name, actual in outputs_and_gradients(inputs, CASES[-1], "torch").items():
        torch.testing.assert_close(actual, exact[name], rtol=1e-12, atol=1e-12)


def test_meta_tensors_give_shapes():
    x = torch.empty(2, 5, 4, 3, device="meta")
    assert depthwise_conv(x, torch.empty(6, 1, 3, 3, device="meta")).shape == (2, 5, 4, 6)


def test_autocast_casts_as_for_a_convolution():
    x, weight, bias = make_inputs(CASES[1]).values()
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_conv(x, weight, bias)
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("view", [
    lambda x: x[..., 3:6],  # a share of a projection's channels
    lambda x: x[..., :3].permute(0, 2, 1, 3),  # rows and columns exchanged
    lambda x: x[:, :, :1, :3],  # one column, as a sequence is
    lambda x: x[:, :1, :1, :3],
    lambda x: x[..., :1].expand(-1, -1, -1, 3),  # the gradient of a sum, say
])  # fmt: skip
def test_any_strides(view):
    x = view(torch.randn(2, 5, 5, 6))
    taps = torch.randn(3, 3, 3)
    ops, copy = torch.ops.visionssm, x.contiguous()
    results, expected = (
        (
            ops.depthwise_conv(x, taps, None, 1, 1, False, False),
            *ops.depthwise_conv_backward(x, x, taps, None, 1, 1, True, False)[:2],
        )
        for x in (x, copy)
    )
    for got, want in zip(results, expected, strict=True):
        assert got.is_contiguous()  # as declared to torch.compile
        assert torch.equal(got, want)


def test_opcheck():
    x, weight, bias = make_inputs(CASES[1]).values()
    taps = weight.detach().squeeze(1).permute(1, 2, 0).contiguous()
    ops = torch.ops.visionssm
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    for inputs in ((x, taps.requires_grad_(), bias), (x, taps, None)):
        arguments = (*inputs, 1, 1, True, False)
        torch.library.opcheck(ops.depthwise_conv.default, arguments, test_utils=checks)
    args = (torch.randn_like(x), x.detach(), taps.detach(), bias.detach(), 1, 1, True, False)
    torch.library.opcheck(ops.depthwise_conv_backward.default, args, test_utils=checks[:2])


@every_implementation
def test_compiles_without_graph_breaks(implementation):
    inputs = make_inputs(Case(1, 4, 5, 3, repeats=2))

    def loss(x, weight, bias):
        y = depthwise_conv(x, weight, bias, activation="silu", implementation=implementation)
        return y.square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(*inputs.values()), list(inputs.values()))
    actual = torch.autograd.grad(compiled(*inputs.values()), list(inputs.values()))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


def test_the_compiler_takes_it_on_the_cpu(monkeypatch):
    # Without vectors: it would try those of many processors, in a process each, for 20 seconds.
    monkeypatch.setattr("torch._inductor.cpu_vec_isa.valid_vec_isa_list", list)
    scalar = {"cpp.simdlen": 1}  # marks what is cached
    x, weight, bias = make_inputs(Case(1, 6, 1, 3, repeats=2, taps=(7, 1))).values()
    convolve = partial(depthwise_conv, activation="silu")
    compiled = torch.compile(convolve, fullgraph=True, options=scalar)
    expected = depthwise_conv(x, weight, bias, activation="silu")
    torch.testing.assert_close(compiled(x, weight, bias), expected)


def test_flops_are_those_of_a_depthwise_convolution():
    x, weight, _ = make_inputs(Case(2, 4, 5, 3)).values()
    with FlopCounterMode(display=False) as counter:
        y = depthwise_conv(x, weight, implementation="triton")
    with FlopCounterMode(display=False) as by_convolution:
        depthwise_conv(x, weight, implementation="torch")
    forward = 2 * 9 * 2 * 4 * 5 * 3
    assert counter.get_total_flops() == by_convolution.get_total_flops() == forward
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * forward


@pytest.mark.parametrize(("change", "message"), [
    ({"x": torch.zeros(2, 4, 3)}, r"x: expected \(b, h, w, d\) with h, w, d >= 1, got \(2, 4, 3\)"),
    ({"weight": torch.zeros(4, 1, 3, 3)}, r"weight: expected \(m, 1, kh, kw\) with m a multiple"),
    ({"weight": torch.zeros(3, 3, 3)}, r"weight: expected .*, got \(3, 3, 3\)"),
    ({"bias": torch.zeros(1)}, r"bias: expected \(3,\), got \(1,\)"),
    ({"padding": (3, 0)}, r"padding: expected \(0..2, 0..2\), got \(3, 0\)"),
    ({"x": torch.zeros(1, 4, 4, 3).int()}, "x: expected a real floating dtype, got torch.int32"),
    ({"weight": torch.zeros(3, 1, 3, 3, device="meta")}, "weight: expected device cpu as x, got m"),
    ({"activation": "gelu"}, "activation: expected 'silu' or None, got 'gelu'"),
    ({"implementation": "cuda"}, "implementation: expected one of .*, got 'cuda'"),
])  # fmt: skip
def test_wrong_arguments_are_named(change, message):
    arguments = {"x": torch.zeros(1, 4, 4, 3), "weight": torch.zeros(3, 1, 3, 3), **change}
    with pytest.raises(ValueError, match=f"^{message}"):
        depthwise_conv(**arguments)


def test_triton_computes_no_float64():
    inputs = to_double(make_inputs(CASES[0]))
    with pytest.raises(ValueError, match=r"^x: the Triton implementation computes in float32"):
        depthwise_conv(**inputs, implementation="triton")
