"""`ssd` and `ssd_noncausal`, eager and compiled, and mamba_ssm's chunked scan.

Beside the kernels of `ssd` stands what they replace: its PyTorch implementation, compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property, partial

import torch
from torch import Tensor

from visionssm.layers.scan_init import DT_MAX, DT_MIN
from visionssm.ops import ssd, ssd_noncausal

from . import peers
from .registry import COMPILE, EAGER, MAMBA_SSM, PYTORCH, SSDCase
from .task import EPS32, Error, Task, Work, count_flops, max_error

# To the case's dtype, on the way to an element: two factors, what is kept between, the result.
ROUNDINGS = 4
MAX_RATE = 16  # decay rates of a fresh model are uniform in [1, 16]


class SSDProblem:
    """Inputs of a case, distributed as in a fresh model, and the truth about them in float64."""

    def __init__(self, case: SSDCase, device: torch.device):
        self.case = case
        self.device = device

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """By their names in both ops, in their order."""
        case = self.case
        b, l, h, p, g, n = (
            case.batch, case.tokens, case.heads, case.head_dim, case.groups, case.states,
        )  # fmt: skip
        generator = torch.Generator(self.device).manual_seed(0)

        def randn(*shape: int) -> Tensor:
            return torch.randn(*shape, device=self.device, generator=generator).to(case.dtype)

        def rand(*shape: int) -> Tensor:
            return torch.rand(*shape, device=self.device, generator=generator)

        dt = torch.exp(math.log(DT_MIN) + rand(h) * math.log(DT_MAX / DT_MIN))
        inputs = {
            "x": randn(b, l, h, p),
            "dt": randn(b, l, h) / 2,
            "A": -1 - (MAX_RATE - 1) * rand(h),
            "B": randn(b, l, g, n),
            "C": randn(b, l, g, n),
            "D": torch.ones(h, device=self.device),
            "dt_bias": torch.log(torch.expm1(dt)),
        }
        return {name: x.requires_grad_() for name, x in inputs.items()}

    @property
    def op(self) -> Callable[..., Tensor]:
        return ssd if self.case.causal else ssd_noncausal

    @cached_property
    def compiled(self) -> Callable[..., Tensor]:
        return torch.compile(self.op, fullgraph=True, dynamic=False)

    @cached_property
    def compiled_pytorch(self) -> Callable[..., Tensor]:
        op = partial(ssd, implementation="torch")
        return torch.compile(op, fullgraph=True, dynamic=False)

    @cached_property
    def grad_y(self) -> Tensor:
        """Of half the squared norm of y, so that the few numbers of A are no sums that cancel."""
        with torch.no_grad():
            return self.op(*self.inputs.values())

    @cached_property
    def truth(self) -> dict[str, Tensor]:
        inputs = {name: x.detach().double().requires_grad_() for name, x in self.inputs.items()}
        y = self.op(*inputs.values())
        gradients = torch.autograd.grad(y, list(inputs.values()), self.grad_y.double())
        named = {f"grad_{name}": g for name, g in zip(inputs, gradients, strict=True)}
        return {"y": y.detach(), **named}

    def contender(self, name: str) -> Callable[..., Tensor]:
        """A function of the inputs: a mode of ours, PyTorch's products, or mamba_ssm's."""
        if name == MAMBA_SSM:
            return peers.mamba_ssm_ssd
        if name == PYTORCH:
            return self.compiled_pytorch
        return self.op if name == EAGER else self.compiled

    def prepare_forward(self, name: str) -> Callable[[], Tensor]:
        return torch.no_grad()(partial(self.contender(name), *self.inputs.values()))

    def prepare_forward_backward(self, name: str) -> Callable[[], tuple[Tensor, ...]]:
        return partial(self.forward_backward, name)

    def forward_backward(self, name: str) -> tuple[Tensor, ...]:
        y = self.contender(name)(*self.inputs.values())
        return torch.autograd.grad(y, list(self.inputs.values()), self.grad_y)

    def error(self, name: str, got: Tensor) -> Error:
        sums = 8 * EPS32 * math.sqrt(self.case.batch * self.case.tokens)
        eps = torch.finfo(self.case.dtype).eps
        return Error(max_error(got, self.truth[name]), ROUNDINGS * eps + sums)

    def forward_errors(self, name: str) -> dict[str, Error]:
        return {"y": self.error("y", self.prepare_forward(name)())}

    def forward_backward_errors(self, name: str) -> dict[str, Error]:
        named = zip(self.inputs, self.forward_backward(name), strict=True)
        return {f"grad_{x}": self.error(f"grad_{x}", gradient) for x, gradient in named}

    def forward_work(self) -> Work:
        inputs = sum(x.nbytes for x in self.inputs.values())
        return Work(inputs + self.grad_y.nbytes, flops=count_flops(self.prepare_forward(EAGER)))

    def forward_backward_work(self) -> Work:
        """Inputs and the gradient of y are read, y and the gradients of the inputs written."""

        def call() -> None:  # the counter cannot follow autograd.grad
            self.op(*self.inputs.values()).backward(self.grad_y)

        flops = count_flops(call)
        for x in self.inputs.values():
            x.grad = None
        inputs = sum(x.nbytes for x in self.inputs.values())
        return Work(2 * inputs + 2 * self.grad_y.nbytes, flops=flops)


def ssd_tasks(case: SSDCase, device: torch.device, mamba_ssm: bool) -> Iterator[Task]:
    """Forward, and forward with backward: every mode of the case, PyTorch's products, mamba_ssm."""
    problem = SSDProblem(case, device)
    names = [*case.modes]
    if case.causal:
        names += [PYTORCH] * (COMPILE in case.modes) + [MAMBA_SSM] * mamba_ssm
    for name in names:
        ours = name in case.modes
        task = partial(
            Task,
            case=case.label,
            contender="visionssm" if ours else name,
            mode=name if ours else COMPILE if name == PYTORCH else EAGER,
            dtype=case.dtype,
            graph=True,
            missing="the package is not installed"
            if name == MAMBA_SSM and not peers.mamba_ssm_installed()
            else "",
        )
        yield task(
            quantity="fwd",
            prepare=partial(problem.prepare_forward, name),
            errors=partial(problem.forward_errors, name),
            work=problem.forward_work,
            goal=case.goals.get("fwd") if ours else None,
        )
        yield task(
            quantity="fwd+bwd",
            prepare=partial(problem.prepare_forward_backward, name),
            errors=partial(problem.forward_backward_errors, name),
            work=problem.forward_backward_work,
            goal=case.goals.get("fwd+bwd") if ours else None,
        )
