"""Serialization of point clouds: coordinates to routes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from visionssm.scans import serialize_points

from .registry import EAGER, SerializationCase
from .task import Error, Task, Work


class SerializationProblem:
    """Clouds of points that are uniform in a cube, and their routes as the CPU finds them."""

    def __init__(self, case: SerializationCase, device: torch.device):
        self.case = case
        self.device = device

    @cached_property
    def coordinates(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (self.case.clouds, self.case.points, 3)
        return torch.rand(shape, generator=generator, dtype=self.case.dtype).to(self.device)

    def run(self) -> Tensor:
        return serialize_points(self.coordinates, self.case.orders, self.case.grid_size)

    def prepare(self) -> Callable[[], Tensor]:
        self.run()  # tables are made once
        return self.run

    def errors(self) -> dict[str, Error]:
        """Steps that go to another point; none may."""
        case = self.case
        truth = serialize_points(self.coordinates.cpu(), case.orders, case.grid_size)
        return {"routes": Error(float((self.run().cpu() != truth).sum()), 0.5)}

    def work(self) -> Work:
        return Work(self.coordinates.nbytes + self.run().nbytes)


def serialization_tasks(case: SerializationCase, device: torch.device) -> Iterator[Task]:
    """One task: eager, as a training step calls it."""
    problem = SerializationProblem(case, device)
    yield Task(
        case=case.label,
        contender="visionssm",
        mode=EAGER,
        quantity="fwd",
        dtype=case.dtype,
        prepare=problem.prepare,
        errors=problem.errors,
        work=problem.work,
        goal=case.goals.get("fwd"),
        graph=True,
    )
