"""Non-causal SSD: golden numbers, the loop, precision, torch.compile, torch.export."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.models.golden import DEVICES
from tests.ops.ssd_cases import (
    SHAPES,
    assert_results_close,
    golden_cases,
    make_inputs,
    outputs_and_gradients,
    to_double,
)
from visionssm.ops import ssd_noncausal

INPUTS = ("x", "dt", "A", "B", "C", "D")
# float32 against float64 of the same inputs: 64 roundings of the largest value cover products in
# sequence, each over at most 49 tokens.
BOUNDS = {torch.float32: 64 * 2.0**-24, torch.float64: 1e-12}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("implementation", ["reference", "torch"])
@pytest.mark.parametrize("case", golden_cases("noncausal_vssd"), ids=lambda case: case[0]["name"])
def test_golden_case(case, implementation, dtype, device):
    facts, tensors = case
    inputs = {name: tensors[name].to(device, dtype).requires_grad_() for name in INPUTS}
    x, dt, A, B, C, D = inputs.values()
    y = ssd_noncausal(
        x, dt, A if facts["pos"] else -A,  # the weight's sign
        B.unflatten(2, (facts["G"], -1)), C.unflatten(2, (facts["G"], -1)), D,
        dt_softplus=False, implementation=implementation,
    )  # fmt: skip
    grad_out = tensors["grad_out"].to(device, dtype)
    gradients = torch.autograd.grad(y, list(inputs.values()), grad_out)
    results = {"out": y} | {f"grad_{k}": g for k, g in zip(inputs, gradients, strict=True)}
    for name, actual in results.items():
        expected = tensors[name]
        error = (actual.detach().cpu().double() - expected).abs().max() / expected.abs().max()
        assert error <= BOUNDS[dtype], f"{name}: {error:.1e}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_reference(shape, device):
    inputs = make_inputs(*shape, device=device)
    exact = outputs_and_gradients(ssd_noncausal, to_double(inputs), implementation="reference")
    assert_results_close(outputs_and_gradients(ssd_noncausal, inputs), exact)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_its_factors(dtype, device):
    inputs = make_inputs(2, 65, 4, 8, 2, 16, dtype=dtype, device=device)
    actual = outputs_and_gradients(ssd_noncausal, inputs)
    assert actual["y"].dtype == actual["grad_x"].dtype == dtype
    assert actual["grad_A"].dtype == torch.float32
    exact = outputs_and_gradients(ssd_noncausal, to_double(inputs), implementation="reference")
    assert_results_close(actual, exact, torch.finfo(dtype).eps / 2)


def test_strided_views_and_absent_arguments():
    b, l, h, p, g, n = 2, 21, 4, 3, 2, 5
    packed = torch.randn(b, l, h * p + 2 * g * n)
    x, B, C = packed.split([h * p, g * n, g * n], dim=-1)
    x, B, C = x.unflatten(2, (h, p)), B.unflatten(2, (g, n)), C.unflatten(2, (g, n))
    dt, A = torch.rand(b, l, h), -torch.rand(h)
    y = ssd_noncausal(x, dt, A, B, C)
    zeros = torch.zeros(h)
    torch.testing.assert_close(y, ssd_noncausal(x, dt, A, B, C, zeros, zeros))
    copies = [t.contiguous() for t in (x, dt, A, B, C)]
    torch.testing.assert_close(y, ssd_noncausal(*copies))


def test_the_order_of_tokens_does_not_matter():
    inputs = {name: t.detach() for name, t in make_inputs(1, 40, 2, 6, 1, 3).items()}
    order = torch.randperm(40)
    shuffled = {k: t[:, order] if t.dim() > 1 else t for k, t in inputs.items()}
    torch.testing.assert_close(ssd_noncausal(**shuffled), ssd_noncausal(**inputs)[:, order])


def test_compiles_without_graph_breaks():
    inputs = make_inputs(2, 12, 4, 3, 2, 5)

    def loss(*tensors):
        return ssd_noncausal(*tensors).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(*inputs.values()), list(inputs.values()))
    actual = torch.autograd.grad(compiled(*inputs.values()), list(inputs.values()))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


def test_autocast_leaves_it_alone():
    inputs = {name: t.detach() for name, t in make_inputs(1, 12, 2, 4, 1, 3).items()}
    with torch.autocast("cpu", torch.bfloat16):
        inside = ssd_noncausal(**inputs)
    assert torch.equal(inside, ssd_noncausal(**inputs))


def test_flops_are_those_of_two_products():
    b, l, h, p, g, n = 2, 10, 4, 6, 2, 5
    with FlopCounterMode(display=False) as counter:
        ssd_noncausal(**make_inputs(b, l, h, p, g, n)).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 2 * b * l * h * p * n


@pytest.mark.parametrize(("change", "message"), [
    ({"x": torch.zeros(2, 5, 4)}, r"x: expected \(b, l, h, p\)"),
    ({"x": torch.zeros(2, 0, 4, 3)}, r"x: expected .* with l, h, p >= 1"),
    ({"dt": torch.zeros(2, 5, 3)}, r"dt: expected \(2, 5, 4\), got \(2, 5, 3\)"),
    ({"A": torch.zeros(4, 1)}, r"A: expected \(4,\), got \(4, 1\)"),
    ({"B": torch.zeros(2, 5, 3, 6)}, r"B: expected \(2, 5, g, n\) with g a divisor of 4, got"),
    ({"C": torch.zeros(2, 5, 1, 6)}, r"C: expected \(2, 5, 2, 6\), got \(2, 5, 1, 6\)"),
    ({"D": torch.zeros(4, 3)}, r"D: expected \(4,\), got \(4, 3\)"),
    ({"dt_bias": torch.zeros(1)}, r"dt_bias: expected \(4,\), got \(1,\)"),
    ({"dt": torch.zeros(2, 5, 4).int()}, "dt: expected a real floating dtype, got torch.int32"),
    ({"C": torch.zeros(2, 5, 2, 6, device="meta")}, "C: expected device cpu as x, got meta"),
    ({"implementation": "triton"}, r"implementation: expected one of .*, got 'triton'"),
])  # fmt: skip
def test_arguments_that_do_not_fit_are_named(change, message):
    inputs = {name: t.detach() for name, t in make_inputs(2, 5, 4, 3, 2, 6).items()}
    with pytest.raises(ValueError, match=message):
        ssd_noncausal(**{**inputs, **change})
