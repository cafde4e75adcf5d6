"""Selective scans: ours with and without the sum over routes, and mamba_ssm's."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor

from visionssm.layers.scan_init import DT_MAX, DT_MIN
from visionssm.ops import selective_scan
from visionssm.scans import cross_scan, raster

from . import peers
from .registry import EAGER, MAMBA_SSM, PYTORCH, ScanCase
from .task import EPS32, Error, Task, Work, max_error

# Per step and state one decay, per step one softplus. The backward pass needs the same ones.
EXPONENTIALS_OF_SOFTPLUS = 1


class ScanProblem:
    """Inputs of a case, distributed as in a fresh model, and the truth about them in float64.

    Args:
        case: to be solved.
        device: of the tensors.
        walk: the routes, given a device; None takes raster order or a cross-scan.
        complete: every route visits every token.

    Raises:
        ValueError: without `walk`, the case is for neither of the two.
    """

    def __init__(
        self,
        case: ScanCase,
        device: torch.device,
        walk: Callable[[torch.device], Tensor] | None = None,
        complete: bool = True,
    ):
        self.case = case
        self.device = device
        self.walk = _raster_or_cross(case) if walk is None else walk
        self.complete = complete

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """By their names in `selective_scan`, in its order."""
        case = self.case
        b, k, l, d, n = case.batch, case.routes, case.tokens, case.channels, case.states
        generator = torch.Generator(self.device).manual_seed(0)

        def randn(*shape: int, dtype: torch.dtype = case.dtype) -> Tensor:
            return torch.randn(*shape, device=self.device, dtype=dtype, generator=generator)

        dt = torch.rand(k, d, device=self.device, generator=generator)
        dt = torch.exp(math.log(DT_MIN) + dt * math.log(DT_MAX / DT_MIN))
        rates = torch.arange(1.0, n + 1, device=self.device)
        return {
            "u": randn(b, 1, l, d),
            "delta": randn(b, k, l, d) / 2,
            "A": -rates.repeat(k, d, 1),
            "B": randn(b, k, l, n),
            "C": randn(b, k, l, n),
            "D": randn(k, d, dtype=torch.float32),
            "delta_bias": torch.log(torch.expm1(dt)),
        }

    @cached_property
    def routes(self) -> Tensor:
        return self.walk(self.device)

    @cached_property
    def grad_y(self) -> Tensor:
        """(b, l, d): every route receives the same, as from a sum."""
        return torch.randn_like(self.inputs["u"][:, 0])

    @cached_property
    def truth(self) -> dict[str, Tensor]:
        inputs = {name: x.double().requires_grad_() for name, x in self.inputs.items()}
        y = selective_scan(*inputs.values(), routes=self.routes, implementation="torch")
        grad_y = self.grad_y.double()[:, None].expand(y.shape)
        gradients = torch.autograd.grad(y, list(inputs.values()), grad_y)
        values = {"y": y.detach(), "y summed": y.detach().sum(1)}
        return values | {f"grad_{x}": g for x, g in zip(inputs, gradients, strict=True)}

    def error(self, name: str, got: Tensor, roundings: int) -> Error:
        """Compare with the truth of that name.

        Args:
            name: a key of `truth`.
            got: of the same shape.
            roundings: to the case's dtype, of which each element is the sum; the rest of the limit
                is for float32 sums over batch and tokens.
        """
        sums = 8 * EPS32 * math.sqrt(self.case.batch * self.case.tokens)
        eps = torch.finfo(self.case.dtype).eps
        return Error(max_error(got, self.truth[name]), roundings * eps + sums)


def _raster_or_cross(case: ScanCase) -> Callable[[torch.device], Tensor]:
    if case.routes not in (1, 4):
        raise ValueError(f"routes: expected 1 (raster) or 4 (cross-scan), got {case.routes}")
    if case.routes == 1:
        return functools.partial(raster, (1, case.tokens))
    side = math.isqrt(case.tokens)
    if side**2 != case.tokens:
        raise ValueError(f"tokens: expected a square for a cross-scan, got {case.tokens}")
    return functools.partial(cross_scan, (side, side))


class OurScan:
    """`selective_scan` on this device, by the implementation that runs there or another."""

    roundings = 1

    def __init__(self, problem: ScanProblem, reduce: str, implementation: str = "auto"):
        self.problem = problem
        self.reduce = reduce
        self.implementation = implementation
        self.y_name = "y summed" if reduce == "sum" else "y"

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        return {name: x.detach().requires_grad_() for name, x in self.problem.inputs.items()}

    @cached_property
    def grad_y(self) -> Tensor:
        if self.reduce == "sum":
            return self.problem.grad_y
        return self.problem.grad_y[:, None].repeat(1, self.problem.case.routes, 1, 1)

    @property
    def extra_bytes(self) -> int:
        return self.problem.routes.nbytes

    def run(self) -> Tensor:
        return selective_scan(
            *self.inputs.values(),
            routes=self.problem.routes,
            reduce=self.reduce,
            complete=self.problem.complete,
            implementation=self.implementation,
        )

    def in_token_order(self, name: str, x: Tensor) -> Tensor:
        """A result in the layout of the truth of that name."""
        return x


Scan = OurScan | peers.ChannelFirstScan


def scan_tasks(case: ScanCase, device: torch.device, mamba_ssm: bool) -> Iterator[Task]:
    """Forward and backward of every contender. Goals are for the scan without the sum."""
    problem = ScanProblem(case, device)
    yield from our_tasks(problem, "visionssm", case.goals)
    if case.routes > 1:
        yield from _tasks(problem, "visionssm, routes summed", OurScan(problem, "sum"), {})
    if device.type == "cpu":
        yield from _tasks(problem, PYTORCH, OurScan(problem, "none", "torch"), {})
    if mamba_ssm:
        missing = "" if peers.mamba_ssm_installed() else "the package is not installed"
        scan = peers.ChannelFirstScan(problem, peers.mamba_ssm_scan)
        yield from _tasks(problem, MAMBA_SSM, scan, {}, missing)


def our_tasks(
    problem: ScanProblem,
    contender: str,
    goals: Mapping[str, float] = MappingProxyType({}),
    relative_to: str | None = None,
) -> Iterator[Task]:
    """Forward and backward of `selective_scan` without the sum; the rest as in `Task`."""
    return _tasks(problem, contender, OurScan(problem, "none"), goals, relative_to=relative_to)


def _tasks(
    problem: ScanProblem,
    contender: str,
    scan: Scan,
    goals: Mapping[str, float],
    missing: str = "",
    relative_to: str | None = None,
) -> Iterator[Task]:
    case = problem.case
    quantities = {
        "fwd": (_prepare_forward, _forward_errors),
        "bwd": (_prepare_backward, _backward_errors),
    }
    for quantity, (prepare, errors) in quantities.items():
        yield Task(
            case=case.label,
            contender=contender,
            mode=EAGER,
            quantity=quantity,
            dtype=case.dtype,
            prepare=functools.partial(prepare, scan),
            errors=functools.partial(errors, problem, scan),
            work=functools.partial(_work, case, scan, quantity),
            goal=goals.get(quantity),
            relative_to=relative_to,
            graph=True,
            missing=missing,
        )


def _prepare_forward(scan: Scan) -> Callable[[], Tensor]:
    return torch.no_grad()(scan.run)


def _prepare_backward(scan: Scan) -> Callable[[], tuple[Tensor, ...]]:
    y, inputs = scan.run(), list(scan.inputs.values())
    return lambda: torch.autograd.grad(y, inputs, scan.grad_y, retain_graph=True)


def _forward_errors(problem: ScanProblem, scan: Scan) -> dict[str, Error]:
    y = scan.in_token_order("y", _prepare_forward(scan)())
    return {"y": problem.error(scan.y_name, y, scan.roundings)}


def _backward_errors(problem: ScanProblem, scan: Scan) -> dict[str, Error]:
    names = [f"grad_{name}" for name in scan.inputs]
    gradients = dict(zip(names, _prepare_backward(scan)(), strict=True))
    return {
        name: problem.error(name, scan.in_token_order(name, gradient), scan.roundings)
        for name, gradient in gradients.items()
    }


def _work(case: ScanCase, scan: Scan, quantity: str) -> Work:
    inputs = sum(x.nbytes for x in scan.inputs.values())
    moved = inputs + scan.extra_bytes + scan.grad_y.nbytes  # y and its gradient are of one size
    if quantity == "bwd":
        moved += inputs  # their gradients
    elements = case.batch * case.routes * case.tokens * case.channels
    return Work(moved, elements * (case.states + EXPONENTIALS_OF_SOFTPLUS))
