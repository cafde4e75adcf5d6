"""SSD: golden numbers of Mamba-2, the loop, chunks, precision, torch.compile, torch.export."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim
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
from visionssm.ops import ssd
from visionssm.ops.ssd import torch_impl

INPUTS = ("x", "dt", "A", "B", "C", "D", "dt_bias", "z", "initial_states")
# float32 against float64 of the same inputs: 64 roundings of the largest value cover products in
# sequence over at most 101 tokens.
BOUNDS = {torch.float32: 64 * 2.0**-24, torch.float64: 1e-12}
ssd_and_states = partial(ssd, return_final_states=True)


def largest_log_decay(inputs: dict[str, torch.Tensor]) -> float:
    """Over a chunk of the longest length, at the step sizes of make_inputs."""
    dt = F.softplus(inputs["dt"] + inputs["dt_bias"])[:, : torch_impl.CHUNK]
    return float((dt * inputs["A"]).sum(1).abs().max().detach())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(
    ("implementation", "chunk"), [("reference", 64), ("torch", 64), ("torch", 16)]
)
@pytest.mark.parametrize("case", golden_cases("ssd"), ids=lambda case: case[0]["name"])
def test_golden_case(case, implementation, chunk, dtype, device, monkeypatch):
    monkeypatch.setattr(torch_impl, "CHUNK", chunk)
    facts, tensors = case
    names = [name for name in INPUTS if name in tensors]
    inputs = {name: tensors[name].to(device, dtype).requires_grad_() for name in names}
    y, final = ssd_and_states(
        **inputs, dt_softplus=facts["dt_softplus"], dt_limit=facts.get("dt_limit"),
        implementation=implementation,
    )  # fmt: skip
    grad_y, grad_final = (tensors[k].to(device, dtype) for k in ("grad_out", "grad_final"))
    leaves = list(inputs.values())
    of_both = torch.autograd.grad((y, final), leaves, (grad_y, grad_final), retain_graph=True)
    of_y = torch.autograd.grad(y, leaves, grad_y)
    results = {"out": y, "final_states": final}
    results |= {f"grad_{name}": g for name, g in zip(names, of_both, strict=True)}
    results |= {f"gradout_only_{name}": g for name, g in zip(names, of_y, strict=True)}
    assert results.keys() >= {k for k in tensors if k.startswith("gradout_only_")}
    for name, actual in results.items():
        expected = tensors[name]
        error = (actual.detach().cpu().double() - expected).abs().max() / expected.abs().max()
        assert error <= BOUNDS[dtype], f"{name}: {error:.1e}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_reference(shape, device):
    inputs = make_inputs(*shape, device=device)
    exact = outputs_and_gradients(ssd_and_states, to_double(inputs), implementation="reference")
    actual = outputs_and_gradients(ssd_and_states, inputs)
    assert_results_close(actual, exact, log_decay=largest_log_decay(inputs))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_its_factors(dtype, device):
    inputs = make_inputs(2, 150, 4, 8, 2, 16, dtype=dtype, device=device)
    actual = outputs_and_gradients(ssd_and_states, inputs)
    assert actual["y"].dtype == actual["grad_x"].dtype == dtype
    assert actual["final"].dtype == actual["grad_A"].dtype == torch.float32
    exact = outputs_and_gradients(ssd_and_states, to_double(inputs), implementation="reference")
    assert_results_close(actual, exact, torch.finfo(dtype).eps / 2)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_fast_decay_over_many_steps_stays_finite(chunk, monkeypatch):
    """Decays of earlier tokens underflow; those of the matrix above its diagonal would overflow."""
    monkeypatch.setattr(torch_impl, "CHUNK", chunk)
    inputs = make_inputs(1, 130, 2, 3, 1, 4)
    inputs["A"] = torch.full((2,), -200.0, requires_grad=True)
    exact = outputs_and_gradients(ssd, to_double(inputs), implementation="reference")
    actual = outputs_and_gradients(ssd, inputs)
    assert all(t.isfinite().all() for t in actual.values())
    assert_results_close(actual, exact, log_decay=largest_log_decay(inputs))


def test_final_states_continue_the_scan():
    inputs = {name: t.detach() for name, t in make_inputs(2, 130, 4, 3, 2, 5).items()}
    whole, end = ssd_and_states(**inputs)
    first = {k: t[:, :83] if t.dim() > 1 else t for k, t in inputs.items()}
    second = {k: t[:, 83:] if t.dim() > 1 else t for k, t in inputs.items()}
    y1, states = ssd_and_states(**first)
    y2, final = ssd_and_states(**second, initial_states=states)
    torch.testing.assert_close(torch.cat([y1, y2], 1), whole)
    torch.testing.assert_close(final, end)


def test_compiles_without_graph_breaks():
    inputs = make_inputs(2, 70, 4, 3, 2, 5)

    def loss(*tensors):
        return ssd(*tensors).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(*inputs.values()), list(inputs.values()))
    actual = torch.autograd.grad(compiled(*inputs.values()), list(inputs.values()))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


def test_exports_for_any_length_of_several_chunks():
    class Scan(torch.nn.Module):
        def forward(self, x, dt, A, B, C):
            return ssd(x, dt, A, B, C)

    def inputs(l: int) -> tuple[torch.Tensor, ...]:
        return tuple(t.detach() for t in make_inputs(1, l, 2, 3, 1, 4).values())[:5]

    length = {1: Dim.AUTO}
    program = torch.export.export(
        Scan(), inputs(150), dynamic_shapes=(length, length, None, length, length)
    )
    torch.testing.assert_close(program.module()(*inputs(333)), Scan()(*inputs(333)))


def test_autocast_leaves_it_alone():
    inputs = {name: t.detach() for name, t in make_inputs(1, 70, 2, 4, 1, 3).items()}
    with torch.autocast("cpu", torch.bfloat16):
        inside = ssd(**inputs)
    assert torch.equal(inside, ssd(**inputs))


def test_flops_are_those_of_the_products():
    b, c, h, p, g, n, T = 2, 3, 4, 6, 2, 5, torch_impl.CHUNK
    inputs = {name: t.detach() for name, t in make_inputs(b, c * T, h, p, g, n).items()}
    with FlopCounterMode(display=False) as counter:
        ssd(**inputs)
    chunks = b * c * (g * T * T * n + h * T * T * p + 2 * h * T * p * n)
    carry = b * h * (c + 1) ** 2 * p * n
    assert counter.get_total_flops() == 2 * (chunks + carry)


@pytest.mark.parametrize(("change", "message"), [
    ({"x": torch.zeros(2, 5, 4)}, r"x: expected \(b, l, h, p\)"),
    ({"dt": torch.zeros(2, 5, 3)}, r"dt: expected \(2, 5, 4\), got \(2, 5, 3\)"),
    ({"B": torch.zeros(2, 5, 3, 6)}, r"B: expected \(2, 5, g, n\) with g a divisor of 4, got"),
    ({"C": torch.zeros(2, 5, 1, 6)}, r"C: expected \(2, 5, 2, 6\), got \(2, 5, 1, 6\)"),
    ({"D": torch.zeros(4, 2)}, r"D: expected \(4,\) or \(4, 3\), got \(4, 2\)"),
    ({"z": torch.zeros(2, 5, 4, 1)}, r"z: expected \(2, 5, 4, 3\), got"),
    ({"initial_states": torch.zeros(2, 4, 6, 3)}, r"initial_states: expected \(2, 4, 3, 6\), got"),
    ({"dt_limit": (0.5, 0.1)}, r"dt_limit: expected 0 <= least <= greatest, got \(0.5, 0.1\)"),
    ({"implementation": "triton"}, r"implementation: expected one of .*, got 'triton'"),
])  # fmt: skip
def test_arguments_that_do_not_fit_are_named(change, message):
    inputs = {name: t.detach() for name, t in make_inputs(2, 5, 4, 3, 2, 6).items()}
    with pytest.raises(ValueError, match=message):
        ssd(**{**inputs, **change})
