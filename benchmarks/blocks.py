"""Token mixers, eager and compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from visionssm import layers

from .registry import EAGER, BlockCase
from .task import Error, Task, Work, count_flops, network_limit, norm_error


class BlockProblem:
    """A block, its input, and the truth about them in float64."""

    def __init__(self, case: BlockCase, device: torch.device):
        self.case = case
        self.device = device

    @cached_property
    def block(self) -> nn.Module:
        torch.manual_seed(0)
        mixer = getattr(layers, self.case.mixer)
        return mixer(self.case.dim, **self.case.kwargs).to(self.device)

    @cached_property
    def compiled(self) -> Callable[[Tensor], Tensor]:
        return torch.compile(self.block, fullgraph=True, dynamic=False)

    @cached_property
    def x(self) -> Tensor:
        """(b, h, w, dim), as the normalisation before the block would give it."""
        case = self.case
        generator = torch.Generator(self.device).manual_seed(0)
        shape = (case.batch, case.side, case.side, case.dim)
        x = torch.randn(*shape, device=self.device, generator=generator)
        return x.to(case.dtype).requires_grad_()

    @cached_property
    def grad_y(self) -> Tensor:
        return torch.randn_like(self.x)

    @cached_property
    def truth(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output, and gradients of the input and of each parameter."""
        block, x = copy.deepcopy(self.block).double(), self.x.detach().double().requires_grad_()
        y = block(x)
        inputs = [x, *block.parameters()]
        return y.detach(), torch.autograd.grad(y, inputs, self.grad_y.double())

    def prepare_forward(self, mode: str) -> Callable[[], Tensor]:
        return torch.no_grad()(partial(self.forward, mode))

    def prepare_forward_backward(self, mode: str) -> Callable[[], tuple[Tensor, ...]]:
        return partial(self.forward_backward, mode)

    def forward(self, mode: str) -> Tensor:
        block = self.block if mode == EAGER else self.compiled
        with torch.autocast(self.device.type, self.case.dtype, self.case.dtype != torch.float32):
            return block(self.x)

    def forward_backward(self, mode: str) -> tuple[Tensor, ...]:
        y = self.forward(mode)
        return torch.autograd.grad(y, [self.x, *self.block.parameters()], self.grad_y.to(y.dtype))

    def limit(self, passes: int) -> float:
        return network_limit(self.block.parameters(), self.case.dtype, passes)

    def forward_errors(self, mode: str) -> dict[str, Error]:
        y = self.prepare_forward(mode)()
        return {"y": Error(norm_error([y], self.truth[:1]), self.limit(1))}

    def forward_backward_errors(self, mode: str) -> dict[str, Error]:
        (grad_x, *gradients), (truth_x, *truths) = self.forward_backward(mode), self.truth[1]
        return {
            "grad_x": Error(norm_error([grad_x], [truth_x]), self.limit(2)),
            "grad_parameters": Error(norm_error(gradients, truths), self.limit(2)),
        }

    def forward_work(self) -> Work:
        """x is read and y written."""
        return Work(2 * self.x.nbytes, flops=count_flops(self.prepare_forward(EAGER)))

    def forward_backward_work(self) -> Work:
        """x and the gradient of y are read, y and the gradient of x written."""

        def call() -> None:  # the counter cannot follow autograd.grad
            y = self.forward(EAGER)
            y.backward(self.grad_y.to(y.dtype))

        flops = count_flops(call)
        self.block.zero_grad()
        self.x.grad = None
        return Work(4 * self.x.nbytes, flops=flops)


def block_tasks(case: BlockCase, device: torch.device) -> Iterator[Task]:
    """Forward, and forward with backward, in every mode of the case."""
    problem = BlockProblem(case, device)
    for mode in case.modes:
        task = partial(
            Task, case=case.label, contender=case.contender or case.mixer, mode=mode,
            dtype=case.dtype, relative_to=case.relative_to, graph=True,
        )  # fmt: skip
        yield task(
            quantity="fwd",
            prepare=partial(problem.prepare_forward, mode),
            errors=partial(problem.forward_errors, mode),
            work=problem.forward_work,
            goal=case.goals.get("fwd"),
        )
        yield task(
            quantity="fwd+bwd",
            prepare=partial(problem.prepare_forward_backward, mode),
            errors=partial(problem.forward_backward_errors, mode),
            work=problem.forward_backward_work,
            goal=case.goals.get("fwd+bwd"),
        )
