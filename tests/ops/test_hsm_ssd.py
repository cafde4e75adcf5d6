"""HSM-SSD's state on CPU: reference, PyTorch, the Triton kernels interpreted, and the operator."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.ops.hsm_ssd_cases import (
    SHAPES,
    assert_results_close,
    make_inputs,
    outputs_and_gradients,
    to_double,
)
from visionssm.ops import hsm_ssd

every_implementation = pytest.mark.parametrize("implementation", ["torch", "triton"])


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Uninitialised memory reads as NaN, so an output that is never written shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@every_implementation
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_reference(implementation, shape):
    inputs = make_inputs(*shape)
    exact = outputs_and_gradients(to_double(inputs), "reference")
    assert_results_close(outputs_and_gradients(inputs, implementation), exact)


@every_implementation
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_once(implementation, dtype):
    inputs = make_inputs(2, 37, 24, 9, dtype=dtype)
    actual = outputs_and_gradients(inputs, implementation)
    assert actual["state"].dtype == actual["grad_x"].dtype == dtype
    assert_results_close(actual, outputs_and_gradients(to_double(inputs), "reference"))


def test_float64_equals_the_reference_to_its_own_precision():
    inputs = to_double(make_inputs(2, 37, 24, 9))
    actual, exact = (
        outputs_and_gradients(inputs, "torch"),
        outputs_and_gradients(inputs, "reference"),
    )
    for name, expected in exact.items():
        torch.testing.assert_close(actual[name], expected, rtol=1e-12, atol=1e-12)


@every_implementation
def test_strided_views_need_no_copy_by_the_caller(implementation):
    b, l, d, n = 2, 21, 18, 5
    packed = torch.randn(b, l, 3 * n)
    B, _, dt = packed.split(n, dim=-1)
    x = torch.randn(b, d, l).transpose(1, 2)
    A = torch.rand(n)
    views = hsm_ssd(x, dt, A, B, implementation=implementation)
    copies = hsm_ssd(*(t.contiguous() for t in (x, dt, A, B)), implementation=implementation)
    torch.testing.assert_close(views, copies, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", ["reference", "torch", "triton"])
def test_the_order_of_tokens_does_not_matter(implementation):
    x, dt, A, B = (t.detach() for t in make_inputs(1, 40, 6, 3).values())
    order = torch.randperm(40)
    shuffled = hsm_ssd(x[:, order], dt[:, order], A, B[:, order], implementation=implementation)
    ordered = hsm_ssd(x, dt, A, B, implementation=implementation)
    torch.testing.assert_close(shuffled, ordered, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", ["reference", "torch", "triton"])
def test_huge_scores_pick_one_token(implementation):
    x, dt, A, B = (t.detach() for t in make_inputs(1, 50, 6, 3).values())
    dt = dt.clone()
    dt[:, 7], dt[:, 40] = 1e4, -1e4
    state = hsm_ssd(x, dt, A, B, implementation=implementation)
    torch.testing.assert_close(state, B[:, 7, :, None] * x[:, 7, None])


@pytest.mark.parametrize("implementation", ["reference", "torch", "triton"])
def test_nan_is_not_hidden(implementation):
    x, dt, A, B = (t.detach() for t in make_inputs(1, 40, 4, 3).values())
    dt = dt.clone()
    dt[0, 35, 1] = float("nan")
    state = hsm_ssd(x, dt, A, B, implementation=implementation)
    assert state[0, 1].isnan().all()
    assert state[0, ::2].isfinite().all()


@every_implementation
def test_opcheck(implementation):
    inputs = make_inputs(2, 18, 20, 5)
    torch.library.opcheck(torch.ops.visionssm.hsm_ssd.default, (*inputs.values(), implementation))
    x, dt, A, B = (t.detach() for t in inputs.values())
    state, log_total = torch.ops.visionssm.hsm_ssd(x, dt, A, B, implementation)
    torch.library.opcheck(
        torch.ops.visionssm.hsm_ssd_backward.default,
        (torch.randn_like(state), x, dt, B, state, log_total, implementation),
    )


@pytest.mark.parametrize("order", [(0, 2, 1), (1, 0, 2)])
def test_gradients_are_laid_out_as_declared_whatever_the_strides(order):
    x, dt, A, B = (t.detach() for t in make_inputs(3, 3, 3, 3).values())
    x, dt, B = (t.permute(order) for t in (x, dt, B))
    state, log_total = torch.ops.visionssm.hsm_ssd(x, dt, A, B, "torch")
    torch.library.opcheck(
        torch.ops.visionssm.hsm_ssd_backward.default,
        (torch.randn_like(state), x, dt, B, state, log_total, "torch"),
    )


def test_compiles_without_graph_breaks():
    inputs = make_inputs(2, 12, 8, 3)

    def loss(*tensors):
        return hsm_ssd(*tensors).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(*inputs.values()), list(inputs.values()))
    actual = torch.autograd.grad(compiled(*inputs.values()), list(inputs.values()))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


def test_autocast_leaves_the_state_alone():
    inputs = {name: t.detach() for name, t in make_inputs(1, 12, 8, 3).items()}
    mixed = {**inputs, "dt": inputs["dt"].bfloat16(), "B": inputs["B"].bfloat16()}
    with torch.autocast("cpu", torch.bfloat16):
        inside = hsm_ssd(**mixed)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, hsm_ssd(**mixed))


def test_flops_are_those_of_the_matrix_products():
    inputs = make_inputs(2, 10, 6, 4)
    with FlopCounterMode(display=False) as counter:
        hsm_ssd(**inputs).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 2 * 10 * 6 * 4


@pytest.mark.parametrize(("change", "message"), [
    ({"x": torch.zeros(2, 5)}, r"x: expected \(b, l, d\)"),
    ({"x": torch.zeros(2, 0, 4)}, r"x: expected \(b, l, d\) with l, d >= 1"),
    ({"dt": torch.zeros(2, 6, 3)}, r"dt: expected \(2, 5, 3\), got \(2, 6, 3\)"),
    ({"B": torch.zeros(2, 5, 4)}, r"B: expected \(2, 5, 3\), got \(2, 5, 4\)"),
    ({"A": torch.zeros(3, 1)}, r"A: expected \(1..256,\), got \(3, 1\)"),
    ({"A": torch.zeros(257)}, r"A: expected \(1..256,\), got \(257,\)"),
    ({"dt": torch.zeros(2, 5, 3).int()}, "dt: expected a real floating dtype, got torch.int32"),
    ({"B": torch.zeros(2, 5, 3, device="meta")}, "B: expected device cpu as x, got meta"),
    ({"implementation": "cuda"}, "implementation: expected one of"),
])  # fmt: skip
def test_arguments_that_do_not_fit_are_named(change, message):
    inputs = {name: t.detach() for name, t in make_inputs(2, 5, 4, 3).items()}
    with pytest.raises(ValueError, match=message):
        hsm_ssd(**{**inputs, **change})


def test_triton_refuses_float64():
    inputs = to_double(make_inputs(1, 5, 4, 3))
    with pytest.raises(ValueError, match="x: the Triton implementation computes in float32"):
        hsm_ssd(**inputs, implementation="triton")
