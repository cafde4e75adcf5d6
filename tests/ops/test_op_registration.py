"""The operator under opcheck, torch.compile, torch.export, autocast and FLOP counting."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.ops.scan_cases import every_implementation, make_inputs, random_gaps, random_routes
from visionssm.ops import dispatch, selective_scan
from visionssm.ops.dispatch import resolve_implementation
from visionssm.ops.selective_scan import op, triton_impl
from visionssm.scans import scan_routes

CHECKS = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_dynamic",
)


def _op_args(implementation, save_states=True, time="step sizes"):
    inputs = make_inputs(2, 2, 5, 3, 2, elapsed=time == "elapsed")
    gaps = random_gaps(2, 2, 5) if time == "gaps" else None
    inputs["A"] = inputs["A"].detach().mT.contiguous().requires_grad_()
    return (
        *inputs.values(), *([] if time == "elapsed" else [None]), gaps, random_routes(2, 5),
        True, 2 if time == "gaps" else 1, True, save_states, implementation,
    )  # fmt: skip


@every_implementation
@pytest.mark.parametrize("time", ["step sizes", "elapsed", "gaps"])
def test_opcheck(implementation, time, monkeypatch):
    scan = torch.ops.visionssm.selective_scan.default
    # The last check runs interpreted kernels often; of other clocks it would see the same formula.
    few = implementation == "triton" and time != "step sizes"
    checks = {"test_utils": CHECKS[:-1] if few else CHECKS}
    torch.library.opcheck(scan, _op_args(implementation, time=time), **checks)
    if time == "step sizes":  # with states that are not kept too
        with monkeypatch.context() as patch:
            patch.setattr(triton_impl, "MAX_SAVED_STATE_BYTES", 0)
            torch.library.opcheck(scan, _op_args(implementation))
    with torch.no_grad():
        args = _op_args(implementation, save_states=False, time=time)
        y, _, states = scan(*args)
    tensors = [t.detach() if isinstance(t, torch.Tensor) else t for t in args[:10]]
    grad_y = torch.randn_like(y[:, :, 0])
    torch.library.opcheck(
        torch.ops.visionssm.selective_scan_backward.default,
        (grad_y, None, *tensors, states, True, True, implementation),
        **checks,
    )


@pytest.mark.gpu
def test_opcheck_on_gpu():
    args = [
        t.detach().cuda().requires_grad_(t.is_floating_point()) if torch.is_tensor(t) else t
        for t in _op_args("auto")
    ]
    torch.library.opcheck(torch.ops.visionssm.selective_scan.default, tuple(args))


@pytest.mark.parametrize("time", ["step sizes", "elapsed", "gaps"])
def test_compiles_without_graph_breaks(time):
    inputs = make_inputs(1, 2, 12, 4, 1, elapsed=time == "elapsed")
    gaps = random_gaps(1, 2, 12) if time == "gaps" else None
    routes = random_routes(2, 12)

    def loss(u, delta, A, B, C, D, delta_bias, elapsed=None):
        y = selective_scan(
            u, delta, A, B, C, D, delta_bias,
            elapsed=elapsed, gaps=gaps, routes=routes, reduce="sum",
        )  # fmt: skip
        return y.square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(*inputs.values()), list(inputs.values()))
    actual = torch.autograd.grad(compiled(*inputs.values()), list(inputs.values()))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


def test_exports():
    class Scan(torch.nn.Module):
        def forward(self, u, delta, A, B, C, elapsed, gaps):
            y = selective_scan(u, delta, A, B, C)
            y = y + selective_scan(u, delta, A, B, C, elapsed=elapsed)
            return y + selective_scan(u, delta, A, B, C, gaps=gaps)

    named = make_inputs(1, 2, 12, 4, 1, elapsed=True) | {"gaps": random_gaps(1, 2, 12)}
    inputs = tuple(named[name] for name in ("u", "delta", "A", "B", "C", "elapsed", "gaps"))
    program = torch.export.export(Scan(), inputs)
    torch.testing.assert_close(program.module()(*inputs), Scan()(*inputs))


@every_implementation
def test_sizes_may_be_dynamic(implementation):
    """Compiled and exported with complete routes, which Triton fills up to whole tiles."""

    class Scan(torch.nn.Module):
        def forward(self, u, delta, A, B, C):
            routes = scan_routes("bidirectional", 1, u.shape[2], u)
            return selective_scan(
                u, delta, A, B, C, routes=routes, complete=True, implementation=implementation
            )

    def inputs(length):
        return tuple(make_inputs(2, 2, length, 3, 1).values())[:5]

    compiled = torch.compile(Scan(), dynamic=True, fullgraph=True, backend="aot_eager")
    length = torch.export.Dim("length", min=2, max=64)
    tokens = {2: length}
    shapes = (tokens, tokens, None, tokens, tokens)
    with torch.no_grad():
        exported = torch.export.export(Scan(), inputs(18), dynamic_shapes=shapes).module()
    for tensors in map(inputs, (18, 23, 32)):
        expected = Scan()(*tensors)
        actual = compiled(*tensors)
        torch.testing.assert_close(actual, expected)
        with torch.no_grad():
            torch.testing.assert_close(exported(*tensors), expected)
        gradients = (torch.autograd.grad(y.square().sum(), tensors) for y in (actual, expected))
        for a, e in zip(*gradients, strict=True):
            torch.testing.assert_close(a, e)


def test_autocast_leaves_the_scan_alone():
    inputs = make_inputs(1, 1, 12, 4, 2)
    mixed = {**inputs, "u": inputs["u"].bfloat16(), "B": inputs["B"].bfloat16()}
    with torch.autocast("cpu", torch.bfloat16):
        inside = selective_scan(**mixed)
    assert torch.equal(inside, selective_scan(**mixed))


def test_flop_formula():
    inputs = make_inputs(2, 2, 10, 3, 4)
    with FlopCounterMode(display=False) as counter:
        selective_scan(**inputs)
    assert counter.get_total_flops() == 2 * 2 * 10 * 3 * (9 * 4 + 2)


def test_resolution_by_device_and_dtype(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert resolve_implementation("auto", cpu, torch.float32) == "torch"
    assert resolve_implementation("auto", cuda, torch.bfloat16) == "triton"
    assert resolve_implementation("auto", cuda, torch.float64) == "torch"
    assert resolve_implementation("reference", cuda, torch.float32) == "reference"
    for works, implementation in ((True, "numba"), (False, "torch")):
        monkeypatch.setattr(dispatch, "numba_works", lambda works=works: works)
        chosen = resolve_implementation("auto", cpu, torch.bfloat16, has_numba=True)
        assert chosen == implementation
        assert resolve_implementation("auto", cpu, torch.float64, has_numba=True) == "torch"
        assert resolve_implementation("auto", cuda, torch.float32, has_numba=True) == "triton"


def test_a_numba_that_does_not_import_is_logged_and_left_out(monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)

    def fail(name):
        raise ImportError("Numba needs NumPy 1.0 or less")

    monkeypatch.setattr(importlib, "import_module", fail)
    assert not dispatch.numba_works.__wrapped__()
    assert "Numba needs NumPy 1.0 or less" in caplog.text
    monkeypatch.setattr(op, "numba_works", lambda: False)
    with pytest.raises(ImportError, match=r"visionssm\[cpu\]"):
        selective_scan(**make_inputs(1, 1, 3, 2, 1), implementation="numba")
