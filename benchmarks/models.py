"""Whole models of timm's registry: inference and training steps, eager and compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cached_property, partial

import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torch._functorch import config as functorch_config

import visionssm  # noqa: F401 - registers our models with timm

from .registry import COMPACT, EAGER, MEMORY_BUDGET, ModelCase
from .task import Error, Task, Work, count_flops, network_limit, norm_error

NUM_CLASSES = 1000
TRUTH_SLICE = 32  # images computed in float64 at once


class ModelProblem:
    """A model with random weights, images, labels, and the truth about them in float64."""

    def __init__(self, case: ModelCase, device: torch.device):
        self.case = case
        self.device = device
        self.compact = False  # whether what is compiled keeps to the budget

    @cached_property
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        model = timm.create_model(self.case.model, num_classes=NUM_CLASSES, **self.case.kwargs).to(
            self.device
        )
        for module in model.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0  # a result that is checked cannot be random
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 0.0  # training steps leave what inference reads
        return model

    @cached_property
    def compiled(self) -> Callable[[Tensor], Tensor]:
        return torch.compile(self.model, fullgraph=True, dynamic=False)

    @cached_property
    def images(self) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(0)
        shape = (self.case.batch, 3, self.case.size, self.case.size)
        return torch.randn(*shape, device=self.device, generator=generator)

    @cached_property
    def labels(self) -> Tensor:
        return torch.arange(self.case.batch, device=self.device) % NUM_CLASSES

    @cached_property
    def true_logits(self) -> Tensor:
        model = copy.deepcopy(self.model).double().eval()
        with torch.no_grad():
            return torch.cat([model(x.double()) for x in self.images.split(TRUTH_SLICE)])

    @cached_property
    def true_gradients(self) -> list[Tensor]:
        """Of the mean loss by each parameter, as the sum over slices of the batch."""
        return self._exact_gradients(copy.deepcopy(self.model).double(), self.images)

    @cached_property
    def effect_of_rounding(self) -> float:
        """Error of exact gradients after weights and images were rounded to the case's dtype.

        Batch normalisation divides by what the images of a batch differ in; where that is little,
        as with random weights, no computation in that dtype comes closer than about this.
        """
        model = copy.deepcopy(self.model).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.to(self.case.dtype))
        gradients = self._exact_gradients(model, self.images.to(self.case.dtype))
        return norm_error(gradients, self.true_gradients)

    def _exact_gradients(self, model: nn.Module, images: Tensor) -> list[Tensor]:
        model.train()
        joint = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
        size = self.case.batch if joint else TRUTH_SLICE  # batch statistics need the whole batch
        model.zero_grad()
        for x, label in zip(images.split(size), self.labels.split(size), strict=True):
            loss = F.cross_entropy(model(x.double()), label, reduction="sum") / self.case.batch
            loss.backward()
        return _gradients(model)

    def logits(self, mode: str) -> Tensor:
        model = self.model if mode == EAGER else self.compiled
        with torch.autocast(self.device.type, self.case.dtype, self.case.dtype != torch.float32):
            return model(self.images)

    def training_step(self, mode: str) -> None:
        """Forward and backward, without an optimizer."""
        self.model.zero_grad()
        F.cross_entropy(self.logits(mode).float(), self.labels).backward()

    def limit(self, passes: int) -> float:
        return network_limit(self.model.parameters(), self.case.dtype, passes)

    def inference_errors(self, mode: str) -> dict[str, Error]:
        logits = self.prepare_inference(mode)()
        return {"logits": Error(norm_error([logits], [self.true_logits]), self.limit(1))}

    def training_errors(self, mode: str) -> dict[str, Error]:
        self.prepare_training(mode)()
        error, limit = norm_error(_gradients(self.model), self.true_gradients), self.limit(2)
        self.model.zero_grad()
        if error > limit:  # activations round as often again, forwards and backwards
            limit = max(limit, 2 * self.effect_of_rounding)
        return {"gradients": Error(error, limit)}

    def prepare_inference(self, mode: str) -> Callable[[], Tensor]:
        self.model.eval()
        return torch.no_grad()(partial(self.logits, mode))

    def prepare_training(self, mode: str) -> Callable[[], None]:
        self.model.train()
        if self.compact != (mode == COMPACT):
            self.compact = mode == COMPACT
            torch.compiler.reset()  # what is compiled for the other budget would be taken for this
            with functorch_config.patch(
                activation_memory_budget=MEMORY_BUDGET if self.compact else 1.0
            ):
                self.training_step(mode)
        self.model.zero_grad()
        return partial(self.training_step, mode)

    @cached_property
    def inference_work(self) -> Work:
        """Of all modes."""
        return Work(flops=count_flops(self.prepare_inference(EAGER)))

    @cached_property
    def training_work(self) -> Work:
        """Of all modes."""
        work = Work(flops=count_flops(self.prepare_training(EAGER)))
        self.model.zero_grad()
        return work


def _gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def model_tasks(case: ModelCase, device: torch.device) -> Iterator[Task]:
    """Inference and, where the case asks for it, training in every mode of the case."""
    problem = ModelProblem(case, device)
    registered = timm.is_model(case.model)
    for mode in case.modes:
        task = partial(
            Task,
            case=f"{case.label}, {case.size}, batch {case.batch}",
            contender=case.model,
            mode=mode,
            dtype=case.dtype,
            images=case.batch,
            as_fast_as=case.as_fast_as,
            missing="" if registered else "no registered model has this name",
            graph=True,
        )
        if mode != COMPACT:
            yield task(
                quantity="inference",
                prepare=partial(problem.prepare_inference, mode),
                errors=partial(problem.inference_errors, mode),
                work=lambda: problem.inference_work,
                goal=case.goals.get("inference"),
            )
        if case.training:
            yield task(
                quantity="training",
                prepare=partial(problem.prepare_training, mode),
                errors=partial(problem.training_errors, mode),
                work=lambda: problem.training_work,
                goal=case.goals.get("training"),
            )
