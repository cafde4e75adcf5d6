"""SSD on CPU: golden numbers of Mamba-2, the loop, chunks, the Triton kernels interpreted."""

from __future__ import annotations

import sys
from functools import partial

import pytest
import torch
from torch.export import Dim
from torch.utils.flop_counter import FlopCounterMode

from tests.models.golden import DEVICES
from tests.ops.ssd_cases import (
    SHAPES,
    TILED_SHAPES,
    assert_results_close,
    golden_cases,
    largest_log_decay,
    make_inputs,
    outputs_and_gradients,
    to_double,
)
from visionssm.ops import ssd
from visionssm.ops.ssd import torch_impl, triton_impl

INPUTS = ("x", "dt", "A", "B", "C", "D", "dt_bias", "z", "initial_states")
# float32 against float64 of the same inputs: 64 roundings of the largest value cover products in
# sequence over at most 101 tokens.
BOUNDS = {torch.float32: 64 * 2.0**-24, torch.float64: 1e-12}
ssd_and_states = partial(ssd, return_final_states=True)
every_implementation = pytest.mark.parametrize("implementation", ["torch", "triton"])


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Uninitialised memory reads as NaN, so an output that is never written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(
    ("implementation", "chunk"),
    [("reference", 64), ("torch", 64), ("torch", 16), ("triton", 16), ("triton", 32)],
)
@pytest.mark.parametrize("case", golden_cases("ssd"), ids=lambda case: case[0]["name"])
def test_golden_case(case, implementation, chunk, dtype, device, monkeypatch):
    if implementation == "triton" and dtype == torch.float64:
        pytest.skip("no float64 in Triton")
    monkeypatch.setattr(torch_impl, "CHUNK", chunk)
    monkeypatch.setattr(triton_impl, "SMALL_CHUNK", chunk)
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


@every_implementation
@pytest.mark.parametrize("shape", [*SHAPES, *TILED_SHAPES])
def test_equals_reference(implementation, shape):
    inputs = make_inputs(*shape)
    exact = outputs_and_gradients(ssd_and_states, to_double(inputs), implementation="reference")
    actual = outputs_and_gradients(ssd_and_states, inputs, implementation=implementation)
    assert_results_close(actual, exact, log_decay=largest_log_decay(inputs))


@every_implementation
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_its_factors(implementation, dtype):
    inputs = make_inputs(2, 150, 4, 8, 2, 16, dtype=dtype)
    actual = outputs_and_gradients(ssd_and_states, inputs, implementation=implementation)
    assert actual["y"].dtype == actual["grad_x"].dtype == dtype
    assert actual["final"].dtype == actual["grad_A"].dtype == torch.float32
    exact = outputs_and_gradients(ssd_and_states, to_double(inputs), implementation="reference")
    assert_results_close(actual, exact, torch.finfo(dtype).eps / 2)


@pytest.mark.parametrize(
    ("implementation", "chunk"), [("torch", 1), ("torch", 7), ("torch", 64), ("triton", 64)]
)
def test_fast_decay_over_many_steps_stays_finite(implementation, chunk, monkeypatch):
    """Decays of earlier tokens underflow; those of the matrix above its diagonal would overflow."""
    monkeypatch.setattr(torch_impl, "CHUNK", chunk)
    inputs = make_inputs(1, 130, 2, 3, 1, 4)
    inputs["A"] = torch.full((2,), -200.0, requires_grad=True)
    exact = outputs_and_gradients(ssd, to_double(inputs), implementation="reference")
    actual = outputs_and_gradients(ssd, inputs, implementation=implementation)
    assert all(t.isfinite().all() for t in actual.values())
    assert_results_close(actual, exact, log_decay=largest_log_decay(inputs))


@every_implementation
def test_final_states_continue_the_scan(implementation):
    run = partial(ssd_and_states, implementation=implementation)
    inputs = {name: t.detach() for name, t in make_inputs(2, 130, 4, 3, 2, 5).items()}
    whole, end = run(**inputs)
    first = {k: t[:, :83] if t.dim() > 1 else t for k, t in inputs.items()}
    second = {k: t[:, 83:] if t.dim() > 1 else t for k, t in inputs.items()}
    y1, states = run(**first)
    y2, final = run(**second, initial_states=states)
    torch.testing.assert_close(torch.cat([y1, y2], 1), whole)
    torch.testing.assert_close(final, end)


@every_implementation
def test_compiles_without_graph_breaks(implementation):
    inputs = make_inputs(2, 70, 4, 3, 2, 5)

    def loss(*tensors):
        return ssd(*tensors, implementation=implementation).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(*inputs.values()), list(inputs.values()))
    actual = torch.autograd.grad(compiled(*inputs.values()), list(inputs.values()))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


@every_implementation
def test_exports_for_any_length_of_several_chunks(implementation):
    class Scan(torch.nn.Module):
        def forward(self, x, dt, A, B, C):
            return ssd(x, dt, A, B, C, dt_limit=(0.0, 3.0), implementation=implementation)

    def inputs(l: int) -> tuple[torch.Tensor, ...]:
        return tuple(t.detach() for t in make_inputs(1, l, 2, 3, 1, 4).values())[:5]

    length = {1: Dim.AUTO}
    program = torch.export.export(
        Scan(), inputs(150), dynamic_shapes=(length, length, None, length, length)
    )
    torch.testing.assert_close(program.module()(*inputs(333)), Scan()(*inputs(333)))


@every_implementation
def test_autocast_leaves_it_alone(implementation):
    run = partial(ssd, implementation=implementation)
    inputs = {name: t.detach() for name, t in make_inputs(1, 70, 2, 4, 1, 3).items()}
    with torch.autocast("cpu", torch.bfloat16):
        inside = run(**inputs)
    assert torch.equal(inside, run(**inputs))


def test_flops_are_those_of_the_products():
    b, c, h, p, g, n, T = 2, 3, 4, 6, 2, 5, torch_impl.CHUNK
    inputs = {name: t.detach() for name, t in make_inputs(b, c * T, h, p, g, n).items()}
    with FlopCounterMode(display=False) as counter:
        ssd(**inputs)
    chunks = b * c * (g * T * T * n + h * T * T * p + 2 * h * T * p * n)
    carry = b * h * (c + 1) ** 2 * p * n
    assert counter.get_total_flops() == 2 * (chunks + carry)


def test_flops_of_the_operator_are_those_of_the_recurrence():
    b, l, h, p, g, n = 2, 20, 4, 6, 2, 5
    inputs = make_inputs(b, l, h, p, g, n)
    with FlopCounterMode(display=False) as counter:
        ssd(**inputs, implementation="triton").sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 2 * b * l * h * p * n


@pytest.mark.parametrize("optional", [True, False])
def test_opcheck(optional):
    inputs = make_inputs(2, 37, 4, 3, 2, 5)
    if not optional:
        inputs |= dict.fromkeys(("D", "dt_bias"))
    states = torch.randn(2, 4, 3, 5, requires_grad=True) if optional else None
    args = (*inputs.values(), states, optional, [0.01, 0.5] if optional else None)
    torch.library.opcheck(torch.ops.visionssm.ssd.default, args)
    args = tuple(t.detach() if torch.is_tensor(t) else t for t in args)
    y, final = torch.ops.visionssm.ssd(*args)
    torch.library.opcheck(
        torch.ops.visionssm.ssd_backward.default, (y, final if optional else None, *args)
    )


def test_strided_views_equal_copies():
    b, l, h, p, n = 2, 37, 4, 8, 5
    x, B, C, dt = torch.randn(b, l, h * p + 2 * n + h).split((h * p, n, n, h), dim=-1)
    x = x.unflatten(2, (p, h)).transpose(2, 3)
    views = (x, dt, -torch.rand(h), B[:, :, None], C[:, :, None], torch.randn(p, h).mT)
    copies = tuple(t.contiguous().requires_grad_() for t in views)
    views = tuple(t.requires_grad_() for t in views)
    ys = [ssd(*tensors, implementation="triton") for tensors in (views, copies)]
    assert torch.equal(*ys)
    grad = torch.randn(b, h, l, p).transpose(1, 2)
    gradients = (torch.autograd.grad(y, i, grad) for y, i in zip(ys, (views, copies), strict=True))
    assert all(torch.equal(a, e) for a, e in zip(*gradients, strict=True))


def test_dtypes_may_differ_and_gradients_keep_them():
    inputs = make_inputs(1, 40, 2, 4, 1, 8)
    kinds = {"x": torch.bfloat16, "B": torch.float32, "C": torch.float16, "D": torch.bfloat16}
    inputs = {k: t.detach().to(kinds.get(k, t.dtype)).requires_grad_() for k, t in inputs.items()}
    run = partial(ssd_and_states, initial_states=torch.ones(1, 2, 4, 8).half())
    exact = outputs_and_gradients(run, to_double(inputs), implementation="reference")
    actual = outputs_and_gradients(run, inputs, implementation="triton")
    assert all(actual[f"grad_{name}"].dtype == t.dtype for name, t in inputs.items())
    assert_results_close(actual, exact, torch.finfo(torch.bfloat16).eps / 2)


@pytest.mark.parametrize("names", [("y",), ("final",)])
def test_either_output_has_gradients_alone(names):
    def run(*inputs, implementation):
        outputs = ssd_and_states(*inputs, implementation=implementation)
        return dict(zip(("y", "final"), outputs, strict=True))[names[0]].square().sum()

    inputs = make_inputs(1, 40, 2, 4, 1, 8)
    gradients = [
        torch.autograd.grad(
            run(*inputs.values(), implementation=i), list(inputs.values()), materialize_grads=True
        )
        for i in ("triton", "reference")
    ]
    for actual, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_nan_is_not_hidden():
    inputs = {name: t.detach() for name, t in make_inputs(1, 40, 2, 4, 1, 3).items()}
    inputs["dt"][0, 20, 1] = float("nan")
    y, final = ssd_and_states(**inputs, dt_limit=(0.0, 1.0), implementation="triton")
    assert y[0, 20:, 1].isnan().all()
    assert final[0, 1].isnan().all()
    assert not y[0, :, 0].isnan().any()


def test_too_many_states_run_in_pytorch_unless_triton_is_named(monkeypatch):
    inputs = make_inputs(1, 3, 1, 1, 1, 257)
    with pytest.raises(ValueError, match="B: expected 1 to 256 states in Triton, got 257"):
        ssd(**inputs, implementation="triton")
    package = sys.modules["visionssm.ops.ssd"]
    monkeypatch.setattr(package, "resolve_implementation", lambda *_: "triton")  # as on CUDA
    assert torch.equal(ssd(**inputs), ssd(**inputs, implementation="torch"))


def test_triton_refuses_float64():
    with pytest.raises(ValueError, match="x: the Triton implementation computes in float32"):
        ssd(**to_double(make_inputs(1, 5, 4, 3, 2, 6)), implementation="triton")


@pytest.mark.parametrize(("change", "message"), [
    ({"x": torch.zeros(2, 5, 4)}, r"x: expected \(b, l, h, p\)"),
    ({"dt": torch.zeros(2, 5, 3)}, r"dt: expected \(2, 5, 4\), got \(2, 5, 3\)"),
    ({"B": torch.zeros(2, 5, 3, 6)}, r"B: expected \(2, 5, g, n\) with g a divisor of 4, got"),
    ({"C": torch.zeros(2, 5, 1, 6)}, r"C: expected \(2, 5, 2, 6\), got \(2, 5, 1, 6\)"),
    ({"D": torch.zeros(4, 2)}, r"D: expected \(4,\) or \(4, 3\), got \(4, 2\)"),
    ({"z": torch.zeros(2, 5, 4, 1)}, r"z: expected \(2, 5, 4, 3\), got"),
    ({"initial_states": torch.zeros(2, 4, 6, 3)}, r"initial_states: expected \(2, 4, 3, 6\), got"),
    ({"dt_limit": (0.5, 0.1)}, r"dt_limit: expected 0 <= least <= greatest, got \(0.5, 0.1\)"),
    ({"implementation": "cuda"}, r"implementation: expected one of .*, got 'cuda'"),
])  # fmt: skip
def test_arguments_that_do_not_fit_are_named(change, message):
    inputs = {name: t.detach() for name, t in make_inputs(2, 5, 4, 3, 2, 6).items()}
    with pytest.raises(ValueError, match=message):
        ssd(**{**inputs, **change})
