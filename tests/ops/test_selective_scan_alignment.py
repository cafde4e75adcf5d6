"""Scans of a part of the tokens against a full scan in float64 whose other tokens have no input.

With kept positions q_1 < q_2 < ..., the time since the last kept token is the sum of the step sizes
over (q_(k-1), q_k]; hard removal leaves it at dt_(q_k).
"""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from tests.models.golden import GOLDEN
from tests.ops.scan_cases import NUMBA
from visionssm.ops import selective_scan

CASES = json.loads((GOLDEN / "pruning" / "alignment.json").read_text())["cases"]
TENSORS = load_file(GOLDEN / "pruning" / "alignment.safetensors")
INPUTS = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")

# As for the golden selective scans: float32 arithmetic over at most 64 steps and 8 states.
BOUNDS = {torch.float32: 64 * 2.0**-24, torch.float64: 1e-12}
IMPLEMENTATIONS = [
    ("reference", torch.float32), ("reference", torch.float64),
    ("torch", torch.float32), ("torch", torch.float64),
    pytest.param("numba", torch.float32, marks=NUMBA.marks), ("triton", torch.float32),
]  # fmt: skip


def _load(case, dtype, device="cpu"):
    tensors = {
        key.split("/")[1]: t.to(device)
        for key, t in TENSORS.items()
        if key.startswith(case["name"] + "/")
    }
    return {k: tensors[k].to(dtype).requires_grad_() for k in INPUTS if k in tensors}, tensors


def _step_sizes(inputs: dict[str, Tensor]) -> Tensor:
    return F.softplus(inputs["delta"] + inputs["delta_bias"][:, None])


def _gaps(dt: Tensor, kept: Tensor) -> Tensor:
    """Sums of dt (b, d, l) over (q_(k-1), q_k] for kept (b, k), (b, d, k)."""
    index = kept[:, None].expand(-1, dt.shape[1], -1)
    until = dt.cumsum(-1).gather(2, index)
    return until - F.pad(until[..., :-1], (1, 0))


def _scan(inputs, kept, gaps, implementation, compact, positions=None):
    """Outputs (b, d, kept) and the last state, by a route over all tokens or of gathered ones.

    Gaps are times (b, d, kept), or those of positions (b, 1, kept).
    """
    tokens = {k: inputs[k][:, None].transpose(2, 3) for k in ("u", "delta", "B", "C")}
    if gaps is not None:
        gaps = gaps[:, None].transpose(2, 3)
    rows = kept[:, None, :, None]
    if compact:
        tokens = {k: t.gather(2, rows.expand(-1, -1, -1, t.shape[3])) for k, t in tokens.items()}
        elapsed, routes = gaps, None
    else:
        elapsed, routes = None, kept[:, None]
        if gaps is not None:
            elapsed = torch.zeros_like(tokens["delta"])
            elapsed = elapsed.scatter(2, rows.expand_as(gaps), gaps)
    y, last_state = selective_scan(
        **tokens, A=inputs["A"][None], D=inputs["D"][None], delta_bias=inputs["delta_bias"][None],
        elapsed=elapsed, gaps=positions, routes=routes, return_last_state=True,
        implementation=implementation,
    )  # fmt: skip
    if not compact:
        y = y.gather(2, rows.expand(-1, -1, -1, y.shape[3]))
    out = y[:, 0].transpose(1, 2)
    if "z" in inputs:
        out = out * F.silu(inputs["z"].gather(2, kept[:, None].expand_as(out)))
    return out, last_state[:, 0]


def _assert_close(name: str, actual: Tensor, expected: Tensor, bound: float) -> None:
    error = (actual.detach().double() - expected).abs().max() / expected.abs().max()
    assert error <= bound, f"{name}: {error:.1e} above {bound:.1e}"


def _check(inputs, tensors, results, mode, bound):
    out, last_state = results
    _assert_close("out", out, tensors[f"out_{mode}"], bound)
    _assert_close("last_state", last_state, tensors[f"last_state_{mode}"], bound)
    loss = (out * tensors["grad_out_kept"].to(out.dtype)).sum()
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    for name, gradient in zip(inputs, gradients, strict=True):
        if f"grad_{mode}_{name}" in tensors:
            _assert_close(name, gradient, tensors[f"grad_{mode}_{name}"], bound)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
@pytest.mark.parametrize(("implementation", "dtype"), IMPLEMENTATIONS)
@pytest.mark.parametrize("compact", [False, True], ids=["route", "gathered"])
def test_aligned(case, implementation, dtype, compact):
    inputs, tensors = _load(case, dtype)
    dt, kept = _step_sizes(inputs), tensors["kept"]
    gaps = _gaps(dt, kept)
    _assert_close("gap_dt_sum", gaps, tensors["gap_dt_sum"], BOUNDS[dtype])
    out, last_state = _scan(inputs, kept, gaps, implementation, compact)
    # The expected state is that of the full scan's end: time passes after the last kept token.
    tail = dt.masked_fill(torch.arange(dt.shape[2]) <= kept[:, -1:, None], 0).sum(-1)
    last_state = last_state * torch.exp(tail[..., None] * inputs["A"])
    _check(inputs, tensors, (out, last_state), "aligned", BOUNDS[dtype])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
@pytest.mark.parametrize(("implementation", "dtype"), IMPLEMENTATIONS)
@pytest.mark.parametrize("compact", [False, True], ids=["route", "gathered"])
def test_hard(case, implementation, dtype, compact):
    inputs, tensors = _load(case, dtype)
    results = _scan(inputs, tensors["kept"], None, implementation, compact)
    _check(inputs, tensors, results, "hard", BOUNDS[dtype])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
@pytest.mark.parametrize(("implementation", "dtype"), IMPLEMENTATIONS)
def test_gap_power(case, implementation, dtype):
    """Where only positions of the missing tokens are known, each counts like the kept one."""
    inputs, tensors = _load(case, dtype)
    kept = tensors["kept"]
    positions = torch.diff(kept, prepend=kept.new_full((len(kept), 1), -1))[:, None]
    dt = _step_sizes(inputs)
    gaps = dt.gather(2, kept[:, None].expand(-1, dt.shape[1], -1)) * positions
    for times, counts in ((gaps, None), (None, positions)):
        out, _ = _scan(inputs, kept, times, implementation, compact=True, positions=counts)
        _assert_close("out", out, tensors["out_gap_power"], BOUNDS[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
@pytest.mark.parametrize("compact", [False, True], ids=["route", "gathered"])
def test_aligned_on_gpu(case, compact):
    inputs, tensors = _load(case, torch.float32, "cuda")
    gaps = _gaps(_step_sizes(inputs), tensors["kept"])
    out, last_state = _scan(inputs, tensors["kept"], gaps, "triton", compact)
    tensors["last_state_aligned"] = last_state.detach().double()  # its tail is the CPU tests'
    _check(inputs, tensors, (out, last_state), "aligned", BOUNDS[torch.float32])
