"""Selective scan on CPU: reference, chunked PyTorch, and the Triton kernels interpreted."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.scan_cases import (
    added_up,
    assert_results_close,
    elapsed_of_gaps,
    every_implementation,
    every_implementation_and_the_reference,
    make_inputs,
    outputs_and_gradients,
    random_gaps,
    random_routes,
    to_double,
    with_gradients,
)
from visionssm.ops import selective_scan

torch_impl = importlib.import_module("visionssm.ops.selective_scan.torch_impl")
triton_impl = importlib.import_module("visionssm.ops.selective_scan.triton_impl")

SHAPES = [  # b, k, l, d, n: odd lengths and widths, one and several channel blocks and tiles
    (1, 1, 1, 1, 1),
    (2, 2, 37, 5, 1),
    (1, 3, 20, 33, 2),
    (2, 1, 17, 4, 5),
]


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Uninitialised memory reads as NaN, so an output that is never written shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@every_implementation
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("routing", ["identity", "permutation", "partial", "per_image"])
def test_equals_reference(implementation, shape, routing):
    b, k, l, d, n = shape
    routes = {
        "identity": None,
        "permutation": random_routes(k, l),
        "partial": random_routes(k, l, steps=max(1, l // 2)),
        "per_image": random_routes(k, l, batch=b),
    }[routing]
    inputs, how = make_inputs(*shape), {"routes": routes, "complete": routing == "permutation"}
    exact = outputs_and_gradients(to_double(inputs), implementation="reference", **how)
    actual = outputs_and_gradients(inputs, implementation=implementation, **how)
    assert_results_close(actual, exact, l)


@every_implementation
@pytest.mark.parametrize("routing", ["identity", "permutation", "partial", "per_image"])
def test_elapsed_time_equals_reference(implementation, routing):
    b, k, l, d, n = 2, 2, 37, 5, 2
    routes = {
        "identity": None,
        "permutation": random_routes(k, l),
        "partial": random_routes(k, l, steps=l // 2),
        "per_image": random_routes(k, l, steps=l // 2, batch=b),
    }[routing]
    inputs = make_inputs(b, k, l, d, n, elapsed=True)
    how = {"routes": routes, "complete": routing == "permutation"}
    exact = outputs_and_gradients(to_double(inputs), implementation="reference", **how)
    actual = outputs_and_gradients(inputs, implementation=implementation, **how)
    assert_results_close(actual, exact, l)


@every_implementation
def test_elapsed_time_may_be_a_strided_view_of_another_dtype(implementation):
    inputs = make_inputs(2, 3, 19, 6, 1, elapsed=True)
    elapsed = inputs["elapsed"].detach().bfloat16()
    inputs["elapsed"] = elapsed.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    exact = outputs_and_gradients(to_double(inputs), implementation="reference")
    actual = outputs_and_gradients(inputs, implementation=implementation)
    assert actual["grad_elapsed"].dtype == torch.bfloat16
    assert_results_close(actual, exact, 19)


@every_implementation_and_the_reference
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("routing", ["identity", "permutation", "partial", "per_image"])
def test_gaps_are_elapsed_times_in_step_sizes(implementation, n, routing):
    b, k, l, d = 2, 2, 37, 5
    routes = {
        "identity": None,
        "permutation": random_routes(k, l),
        "partial": random_routes(k, l, steps=l // 2),
        "per_image": random_routes(k, l, steps=l // 2, batch=b),
    }[routing]
    inputs, gaps = make_inputs(b, k, l, d, n), random_gaps(b, k, l)
    if routes is not None:
        gaps = gaps[..., : routes.shape[-1]].where(routes >= 0, 1)  # as elapsed times in padding
    how = {"routes": routes, "complete": routing == "permutation"}
    doubles = to_double(inputs)
    elapsed = elapsed_of_gaps(doubles, gaps, routes)
    exact = outputs_and_gradients(doubles, elapsed=elapsed, implementation="reference", **how)
    actual = outputs_and_gradients(inputs, gaps=gaps, implementation=implementation, **how)
    assert_results_close(actual, exact, l)


@every_implementation
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("batch", [None, 2])
def test_padding_steps_have_gaps(implementation, n, batch):
    inputs, gaps = make_inputs(2, 2, 37, 5, n), random_gaps(2, 2, 30)
    how = {"routes": random_routes(2, 37, steps=30, batch=batch), "gaps": gaps}
    exact = outputs_and_gradients(to_double(inputs), **how, implementation="reference")
    actual = outputs_and_gradients(inputs, **how, implementation=implementation)
    assert_results_close(actual, exact, 30)
    without = outputs_and_gradients(
        inputs, **(how | {"gaps": gaps.where(how["routes"] >= 0, 1)}), implementation=implementation
    )
    assert not torch.allclose(actual["last_state"], without["last_state"])


@every_implementation_and_the_reference
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bfloat16, torch.float64])
def test_gaps_may_be_a_strided_view_of_another_dtype(implementation, dtype):
    inputs, gaps = make_inputs(2, 3, 19, 6, 1), random_gaps(2, 19, 3, dtype=dtype).mT
    doubles = to_double(inputs)
    elapsed = elapsed_of_gaps(doubles, gaps)
    exact = outputs_and_gradients(doubles, elapsed=elapsed, implementation="reference")
    actual = outputs_and_gradients(inputs, gaps=gaps, implementation=implementation)
    assert_results_close(actual, exact, 19)


@every_implementation_and_the_reference
def test_gaps_of_step_sizes_without_softplus(implementation):
    inputs, gaps = make_inputs(1, 2, 19, 6, 2), random_gaps(1, 2, 19)
    inputs = {name: inputs[name] for name in ("u", "delta", "A", "B", "C")}
    with torch.no_grad():
        inputs["delta"].abs_()
    doubles, how = to_double(inputs), {"delta_softplus": False}
    elapsed = doubles["delta"] * gaps[..., None]
    exact = outputs_and_gradients(doubles, elapsed=elapsed, implementation="reference", **how)
    actual = outputs_and_gradients(inputs, gaps=gaps, implementation=implementation, **how)
    assert_results_close(actual, exact, 19)


@every_implementation
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gaps_in_half_precision_round_results_alone(implementation, dtype):
    """Elapsed times are not rounded, as they would be if they were given."""
    inputs, gaps = make_inputs(2, 2, 37, 6, 2, dtype=dtype), random_gaps(2, 2, 37)
    doubles = to_double(inputs)
    exact = outputs_and_gradients(doubles, gaps=gaps, implementation="reference")
    addends = added_up(doubles, gaps=gaps, implementation="reference")
    actual = outputs_and_gradients(inputs, gaps=gaps, implementation=implementation)
    assert_results_close(actual, exact, 37, addends)


@every_implementation_and_the_reference
def test_elapsed_step_sizes_are_the_default(implementation):
    inputs = make_inputs(1, 2, 21, 4, 2)
    routes = random_routes(2, 21, steps=14)
    pre = inputs["delta"] + inputs["delta_bias"][:, None]
    elapsed = torch.nn.functional.softplus(pre)
    default = selective_scan(**inputs, routes=routes, implementation=implementation)
    given = selective_scan(**inputs, elapsed=elapsed, routes=routes, implementation=implementation)
    torch.testing.assert_close(given, default, rtol=1e-5, atol=1e-6)


@every_implementation_and_the_reference
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("slices", "reduce"), [(1, "none"), (1, "sum"), (2, "shared")])
def test_half_precision_rounds_results_alone(implementation, dtype, slices, reduce):
    """And, where routes are added up, what is added: state and arithmetic are float32."""
    inputs = make_inputs(1, 4, 37, 6, 2, dtype=dtype, slices=slices)
    doubles = to_double(inputs)
    exact = outputs_and_gradients(doubles, reduce=reduce, implementation="reference")
    addends = added_up(doubles, reduce=reduce, implementation="reference")
    actual = outputs_and_gradients(inputs, reduce=reduce, implementation=implementation)
    assert actual["y"].dtype == dtype
    assert actual["last_state"].dtype == torch.float32
    if implementation == "reference":  # its gradients are autograd's, rounded where casts are
        actual = {name: t for name, t in actual.items() if not name.startswith("grad")}
        exact = {name: exact[name] for name in actual}
    assert_results_close(actual, exact, 37, addends)


@every_implementation
def test_sum_is_the_sum_of_the_routes(implementation):
    inputs = make_inputs(2, 3, 21, 6, 2)
    routes = random_routes(3, 21)
    each = selective_scan(**inputs, routes=routes, implementation=implementation)
    total = selective_scan(**inputs, routes=routes, implementation=implementation, reduce="sum")
    torch.testing.assert_close(total, each.sum(1), rtol=1e-6, atol=1e-6)


@every_implementation_and_the_reference
@pytest.mark.parametrize("reduce", ["none", "shared", "sum"])
def test_routes_share_slices_of_the_tokens(implementation, reduce):
    """As if the tokens were repeated for the two routes that read them, and y added up by hand."""
    inputs, routes = make_inputs(1, 4, 19, 5, 1, slices=2), random_routes(4, 19)
    doubles = to_double(inputs)
    each, last_state = selective_scan(
        **doubles | {"u": doubles["u"].repeat_interleave(2, dim=1)},
        routes=routes, return_last_state=True, implementation="reference",
    )  # fmt: skip
    y = {"none": each, "shared": each[:, ::2] + each[:, 1::2], "sum": each.sum(1)}[reduce]
    exact = with_gradients(y, last_state, doubles)
    how = {"routes": routes, "reduce": reduce, "implementation": implementation}
    assert_results_close(outputs_and_gradients(inputs, **how), exact, 19)


@every_implementation
def test_inputs_may_differ_in_dtype(implementation):
    inputs = make_inputs(1, 2, 19, 6, 2)
    for name, dtype in (("delta", torch.float16), ("B", torch.bfloat16)):
        inputs[name] = inputs[name].detach().to(dtype).requires_grad_()
    exact = outputs_and_gradients(to_double(inputs), implementation="reference")
    actual = outputs_and_gradients(inputs, implementation=implementation)
    assert all(actual[f"grad_{name}"].dtype == t.dtype for name, t in inputs.items())
    assert_results_close(actual, exact, 19)


@every_implementation
def test_optional_inputs(implementation):
    inputs = make_inputs(1, 2, 19, 6, 2)
    inputs = {name: inputs[name] for name in ("u", "delta", "A", "B", "C")}
    with torch.no_grad():
        inputs["delta"].abs_()  # step sizes are given: keep them positive
    exact = outputs_and_gradients(
        to_double(inputs), delta_softplus=False, implementation="reference"
    )
    actual = outputs_and_gradients(inputs, delta_softplus=False, implementation=implementation)
    assert_results_close(actual, exact, 19)


@every_implementation
def test_strided_views_need_no_copy_by_the_caller(implementation):
    b, k, l, d, n = 2, 3, 18, 5, 2
    packed = torch.randn(b, l, k, d + 2 * n)
    delta, B, C = packed.transpose(1, 2).split([d, n, n], dim=-1)  # channel splits as views
    inputs = make_inputs(b, k, l, d, n)
    views = {**inputs, "delta": delta, "B": B, "C": C, "u": inputs["u"].expand(b, k, l, d)}
    copies = {name: t.contiguous() for name, t in views.items()}
    channel_first = {**copies, "u": copies["u"].transpose(2, 3).contiguous().transpose(2, 3)}
    expected = selective_scan(**copies, implementation=implementation)
    for variant in (views, channel_first):
        actual = selective_scan(**variant, implementation=implementation)
        if implementation == "triton":
            assert torch.equal(actual, expected)
        else:  # the matrix products sum in the order of the strides
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@every_implementation
@settings(max_examples=8, deadline=None)
@given(l=st.integers(1, 40), n=st.integers(1, 3), seed=st.integers(0, 1000))
def test_route_equals_permuting_the_input(implementation, l, n, seed):
    inputs = {name: t.detach() for name, t in make_inputs(1, 1, l, 4, n, seed=seed).items()}
    routes = random_routes(1, l, seed=seed)
    order = routes[0].long()
    permuted = {
        name: t[:, :, order] if name in ("u", "delta", "B", "C") else t
        for name, t in inputs.items()
    }
    along_route = selective_scan(**inputs, routes=routes, implementation=implementation)
    in_order = selective_scan(**permuted, implementation=implementation)
    assert torch.equal(along_route[:, :, order], in_order)


@settings(max_examples=20, deadline=None)
@given(
    l=st.integers(1, 100), step=st.integers(1, 100), block=st.integers(1, 100),
    time=st.sampled_from(["step sizes", "elapsed", "gaps"]),
)  # fmt: skip
def test_chunking_changes_nothing_in_torch(l, step, block, time):
    inputs = make_inputs(1, 2, l, 3, 2, dtype=torch.float64, elapsed=time == "elapsed")
    gaps = random_gaps(1, 2, l) if time == "gaps" else None
    exact = outputs_and_gradients(inputs, gaps=gaps, implementation="reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_impl, "CHUNK_STEPS", 2)
        patch.setattr(torch_impl, "SERIAL_STEPS", 4)
        patch.setattr(torch_impl, "STEP_ELEMENTS", 12 * step)
        patch.setattr(torch_impl, "BLOCK_ELEMENTS", 12 * block)
        actual = outputs_and_gradients(inputs, gaps=gaps, implementation="torch")
    for name, expected in exact.items():
        torch.testing.assert_close(actual[name], expected, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    ("segment", "time", "complete"),
    [
        (32, "step sizes", True), (64, "step sizes", False), (32, "elapsed", False),
        (32, "gaps", True), (64, "gaps", False),
    ],
)  # fmt: skip
def test_splitting_the_length_changes_nothing_in_triton(monkeypatch, n, segment, time, complete):
    inputs = make_inputs(1, 2, 70, 5, n, elapsed=time == "elapsed")
    routes = random_routes(2, 70)
    monkeypatch.setattr(
        triton_impl,
        "_split_length",
        lambda length, *_: triton_impl.Segments(-(-length // segment), segment),
    )
    how = {"routes": routes, "complete": complete}
    if time == "gaps":
        how["gaps"] = random_gaps(1, 2, 70)
    exact = outputs_and_gradients(to_double(inputs), **how, implementation="reference")
    actual = outputs_and_gradients(inputs, **how, implementation="triton")
    assert_results_close(actual, exact, 70)


@pytest.mark.parametrize("complete", [True, False])
def test_segments_of_whole_tiles_where_no_states_are_saved(monkeypatch, complete):
    """With several states; the last segment and its last tile have fewer steps."""
    steps = []

    def split(length, multiple, *_):
        steps.append(multiple)
        size = -(-20 // multiple) * multiple
        return triton_impl.Segments(-(-length // size), size)

    monkeypatch.setattr(triton_impl, "_split_length", split)
    inputs = {name: t.detach() for name, t in make_inputs(2, 2, 70, 5, 5).items()}
    how = {"routes": random_routes(2, 70), "complete": complete, "return_last_state": True}
    exact = selective_scan(**to_double(inputs), **how, implementation="reference")
    actual = selective_scan(**inputs, **how, implementation="triton")
    assert set(steps[:-1]) == {triton_impl.STATE_STEPS}
    assert steps[-1] == triton_impl.STEPS
    for x, expected in zip(actual, exact, strict=True):
        torch.testing.assert_close(x.double(), expected, rtol=1e-5, atol=1e-5)


@every_implementation_and_the_reference
def test_zero_step_size_is_the_identity(implementation):
    inputs = make_inputs(1, 1, 30, 3, 2)
    delta = torch.rand(1, 1, 30, 3)
    delta[:, :, 10:] = 0
    call = {**inputs, "delta": delta, "D": None, "delta_bias": None}
    _, end = selective_scan(
        **call, delta_softplus=False, return_last_state=True, implementation=implementation
    )
    first = {
        name: t[:, :, :10] if name in ("u", "delta", "B", "C") else t for name, t in call.items()
    }
    _, at_10 = selective_scan(
        **first, delta_softplus=False, return_last_state=True, implementation=implementation
    )
    if implementation == "torch":  # 10 steps are cut into other chunks than 30
        torch.testing.assert_close(end, at_10)
    else:
        assert torch.equal(end, at_10)


@every_implementation_and_the_reference
def test_huge_step_sizes_stay_finite(implementation):
    inputs = make_inputs(1, 2, 25, 3, 2)
    with torch.no_grad():
        inputs["delta"][:, :, ::3] = 1e4
        inputs["delta"][:, :, 1::3] = -1e4
    results = outputs_and_gradients(inputs, implementation=implementation)
    assert all(t.isfinite().all() for t in results.values())


@every_implementation_and_the_reference
def test_nan_is_not_hidden(implementation):
    inputs = {name: t.detach() for name, t in make_inputs(1, 1, 10, 2, 1).items()}
    inputs["delta"][0, 0, 4, 0] = float("nan")
    y = selective_scan(**inputs, implementation=implementation)
    assert y[0, 0, 4:, 0].isnan().all()
    assert y[0, 0, :, 1].isfinite().all()


@every_implementation_and_the_reference
def test_padding_steps_let_time_pass(implementation):
    """A padding step decays the state like a token of zeros and touches no row."""
    inputs = {name: t.detach() for name, t in make_inputs(1, 1, 3, 4, 2).items()}
    routes = torch.tensor([[0, -1, 1]], dtype=torch.int32)
    y, last = selective_scan(
        **inputs, routes=routes, return_last_state=True, implementation=implementation
    )
    with_zeros = dict(inputs)
    for name in ("u", "delta", "B", "C"):
        rows = inputs[name]
        with_zeros[name] = torch.stack(
            [rows[:, :, 0], torch.zeros_like(rows[:, :, 0]), rows[:, :, 1]], dim=2
        )
    y_zeros, last_zeros = selective_scan(
        **with_zeros, return_last_state=True, implementation=implementation
    )
    torch.testing.assert_close(y[:, :, :2], y_zeros[:, :, [0, 2]])
    torch.testing.assert_close(last, last_zeros)
    assert (y[:, :, 2] == 0).all()  # visited by no step


@every_implementation
def test_same_bits_every_run(implementation):
    inputs = make_inputs(2, 2, 17, 6, 2)
    runs = [outputs_and_gradients(inputs, implementation=implementation) for _ in range(2)]
    for name in runs[0]:
        assert torch.equal(runs[0][name], runs[1][name]), name


@pytest.mark.parametrize("time", ["step sizes", "elapsed", "gaps"])
def test_gradcheck_in_float64(time):
    inputs = make_inputs(1, 2, 6, 2, 2, dtype=torch.float64, elapsed=time == "elapsed")
    gaps = random_gaps(1, 2, 5) if time == "gaps" else None
    routes = random_routes(2, 6, steps=5)

    def scan(*tensors):
        call = dict(zip(inputs, tensors, strict=True))
        return selective_scan(**call, gaps=gaps, routes=routes, return_last_state=True)

    assert torch.autograd.gradcheck(scan, tuple(inputs.values()))


@pytest.mark.parametrize(("n", "dtype"), [(2, torch.float32), (5, torch.bfloat16)])
def test_saved_states_are_optional(n, dtype):
    """Above MAX_SAVED_STATE_BYTES the backward pass recomputes them: same gradients either way."""
    inputs = make_inputs(1, 1, 40, 3, n, dtype=dtype)
    saved = outputs_and_gradients(inputs, implementation="triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_impl, "MAX_SAVED_STATE_BYTES", 0)
        recomputed = outputs_and_gradients(inputs, implementation="triton")
    for name in saved:
        assert torch.equal(saved[name], recomputed[name]), name


@pytest.mark.parametrize("time", ["step sizes", "elapsed", "gaps"])
def test_many_saved_states_are_rounded(time):
    """Above EXACT_STATE_SIZE, for bfloat16 tokens; without the wider bound grad_A would be off."""
    n = triton_impl.EXACT_STATE_SIZE + 1
    inputs = make_inputs(1, 2, 50, 6, n, dtype=torch.bfloat16, elapsed=time == "elapsed")
    how = {"gaps": random_gaps(1, 2, 50)} if time == "gaps" else {}
    exact = outputs_and_gradients(to_double(inputs), **how, implementation="reference")
    addends = added_up(to_double(inputs), **how, implementation="reference")
    actual = outputs_and_gradients(inputs, **how, implementation="triton")
    assert_results_close(actual, exact, 50, addends, rounded_states=True)
    with pytest.raises(AssertionError, match="grad_A"):
        assert_results_close(actual, exact, 50, addends)


def test_wide_offsets(monkeypatch):
    """Tensors past 2^31 elements take 64-bit offsets; the same kernel at a small size."""
    inputs = make_inputs(1, 1, 20, 3, 1)
    expected = selective_scan(**inputs, implementation="triton")
    monkeypatch.setattr(triton_impl, "MAX_INT32_OFFSET", 1)
    assert torch.equal(selective_scan(**inputs, implementation="triton"), expected)


BAD_CALLS = [
    ("u", {"u": torch.zeros(1, 1, 4, 3)}, r"u: expected \(1, p, 5, 3\), .* got \(1, 1, 4, 3\)"),
    ("slices", {"u": torch.zeros(1, 3, 5, 3)}, r"u: .* p dividing 2 routes, got \(1, 3, 5, 3\)"),
    ("no slice", {"u": torch.zeros(1, 0, 5, 3)}, "u: .* p dividing 2 routes"),
    ("delta", {"delta": torch.zeros(2, 5, 3)}, "delta: expected 4 dimensions"),
    ("A", {"A": torch.zeros(2, 3, 65)}, "A: expected"),
    ("A dtype", {"A": torch.zeros(2, 3, 1, dtype=torch.complex64)}, "A: expected a real"),
    ("B", {"B": torch.zeros(1, 2, 5, 2)}, "B: expected"),
    ("C", {"C": torch.zeros(1, 2, 4, 1)}, "C: expected"),
    ("D", {"D": torch.zeros(6)}, r"D: expected \(2, 3\), got \(6,\)"),
    ("delta_bias", {"delta_bias": torch.zeros(3)}, "delta_bias: expected"),
    ("u dtype", {"u": torch.zeros(1, 2, 5, 3, dtype=torch.int64)}, "u: expected a real floating"),
    ("elapsed", {"elapsed": torch.zeros(1, 1, 5, 3)}, r"elapsed: expected \(1, 2, 5, 3\), got"),
    ("elapsed dtype", {"elapsed": torch.zeros(1, 2, 5, 3).long()}, "elapsed: expected a real"),
    ("gaps", {"gaps": torch.ones(1, 1, 5)}, r"gaps: expected \(1, 2, 5\), .* got \(1, 1, 5\)"),
    ("gaps dtype", {"gaps": torch.ones(1, 2, 5).bool()}, "gaps: expected a real floating dtype"),
    ("gaps device", {"gaps": torch.ones(1, 2, 5, device="meta")}, "gaps: expected device cpu"),
    ("gaps gradient", {"gaps": torch.ones(1, 2, 5, requires_grad=True)}, "gaps: .*requires_grad"),
    (
        "gaps and elapsed",
        {"gaps": torch.ones(1, 2, 5), "elapsed": torch.ones(1, 2, 5, 3)},
        "gaps: expected None beside elapsed",
    ),
    ("device", {"B": torch.zeros(1, 2, 5, 1, device="meta")}, "B: expected device cpu"),
    ("reduce", {"reduce": "mean"}, "reduce: expected 'none', 'shared' or 'sum', got 'mean'"),
    ("implementation", {"implementation": "cuda"}, "implementation: expected one of"),
    ("routes shape", {"routes": torch.zeros(3, 5, dtype=torch.int32)}, "routes: expected"),
    ("routes dtype", {"routes": torch.zeros(2, 5)}, "routes: expected int32 or int64"),
    ("routes high", {"routes": torch.full((2, 1), 5)}, r"routes: expected indices in \[-1, 5\)"),
    ("routes low", {"routes": torch.full((2, 1), -2)}, r"routes: expected indices"),
    ("routes twice", {"routes": torch.zeros(2, 2, dtype=torch.int64)}, "more than once"),
    (
        "routes incomplete",
        {"routes": torch.full((2, 6), -1), "complete": True},
        r"complete: expected routes of 5 steps, one a token, got \(2, 6\)",
    ),
    (
        "routes with padding promised complete",
        {"routes": torch.tensor([[0, 1, 2, 3, -1]] * 2), "complete": True},
        r"routes: expected indices of complete routes in \[0, 5\), got \[-1, 3\]",
    ),
    (
        "no channels",
        {"delta": torch.zeros(1, 2, 5, 0)},
        "delta: expected at least one route, token",
    ),
    ("no routes", {"delta": torch.zeros(1, 0, 5, 3)}, "delta: expected at least one route, token"),
    ("no tokens", {"delta": torch.zeros(1, 2, 0, 3)}, "delta: expected at least one route, token"),
    ("routes empty", {"routes": torch.zeros(2, 0, dtype=torch.int64)}, "at least one step"),
]


@pytest.mark.parametrize(
    ("change", "message"), [c[1:] for c in BAD_CALLS], ids=[c[0] for c in BAD_CALLS]
)
def test_bad_arguments_are_named(change, message):
    inputs = make_inputs(1, 2, 5, 3, 1, slices=2)
    with pytest.raises(ValueError, match=message):
        selective_scan(**{**inputs, **change})


def test_the_default_device_is_not_asked():
    inputs, routes = make_inputs(1, 2, 5, 3, 1), random_routes(2, 5)
    expected = selective_scan(**inputs, routes=routes)
    with torch.device("meta"):
        y = selective_scan(**inputs, routes=routes.clone())  # which were not checked before
    assert torch.equal(y, expected)


def test_triton_refuses_float64():
    inputs = make_inputs(1, 1, 5, 3, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="u: the Triton implementation computes in float32"):
        selective_scan(**inputs, implementation="triton")
