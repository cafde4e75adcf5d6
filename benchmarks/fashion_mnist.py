"""Fashion-MNIST on a device, and the training loop of the benchmarks that train on it.

Debian's package dataset-fashion-mnist puts the data set's four idx files into
/usr/share/datasets/fashion-mnist.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay
from torch import Tensor

CLASSES = 10
MARGIN = 2  # black pixels around an image, which make it 32 x 32, and the most that it is shifted
EAGER_STEPS = 3  # before the capture: PyTorch's documentation asks for a few
TEST_BATCH = 1000
LOSS_SCALE = 2.0**10  # of float16, whose small gradients would be zero


@dataclass(frozen=True)
class Recipe:
    """How a model is trained."""

    epochs: int = 10
    batch: int = 250
    lr: float = 4e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    max_norm: float = 5.0  # of the gradient


class Split:
    """Images (n, side, side) uint8 and labels (n,) on a device, one tensor each."""

    def __init__(self, folder: Path, prefix: str, device: torch.device):
        images = torch.from_numpy(read_idx(folder, f"{prefix}-images-idx3-ubyte"))
        labels = torch.from_numpy(read_idx(folder, f"{prefix}-labels-idx1-ubyte"))
        self.images = F.pad(images.to(device), [MARGIN] * 4)
        self.labels = labels.long().to(device)


class FashionMNIST:
    """Both splits on a device, to be normalised by the training images' mean and deviation.

    Args:
        folder: of the four idx files, compressed or not.
        device: they are put on.
        images: of the training set, the first so many; None takes all.
    """

    def __init__(self, folder: Path, device: torch.device, images: int | None = None):
        self.train, self.test = Split(folder, "train", device), Split(folder, "t10k", device)
        self.train.images = self.train.images[:images]
        self.train.labels = self.train.labels[:images]
        pixels = self.train.images.float()
        self.mean, self.std = float(pixels.mean()), float(pixels.std())

    def normalised(self, images: Tensor) -> Tensor:
        """(b, side, side) uint8 to (b, 1, side, side) float32."""
        return (images[:, None].float() - self.mean) / self.std


def read_idx(folder: Path, name: str) -> np.ndarray:
    """Array of bytes in an idx file, ``name`` or ``name.gz``.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: the file is not of unsigned bytes, or shorter or longer than its header says.
    """
    plain, packed = folder / name, folder / f"{name}.gz"
    data = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    zeros, dtype, axes = struct.unpack_from(">HBB", data)
    if (zeros, dtype) != (0, 8):
        raise ValueError(f"{folder / name}: expected an idx file of bytes, got {data[:4]!r}")
    shape = struct.unpack_from(f">{axes}I", data, 4)
    pixels = np.frombuffer(bytearray(data), dtype=np.uint8, offset=4 + 4 * axes)
    if len(pixels) != np.prod(shape):
        raise ValueError(f"{folder / name}: expected {shape} bytes, got {len(pixels)}")
    return pixels.reshape(shape)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to `MARGIN` pixels, each image its own way, and mirror half of them."""
    b, side, _ = images.shape
    device = images.device
    shifts = torch.randint(2 * MARGIN + 1, (2, b, 1), generator=generator, device=device)
    mirrored = torch.randint(2, (b, 1), generator=generator, device=device).bool()
    rows, columns = shifts + torch.arange(side, device=device)
    columns = torch.where(mirrored, columns.flip(-1), columns)
    image = torch.arange(b, device=device)[:, None, None]
    return F.pad(images, [MARGIN] * 4)[image, rows[:, :, None], columns[:, None, :]]


def endless_batches(images: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices (batch,) of images, in another order every epoch, on the generator's device."""
    while True:
        order = torch.randperm(images, generator=generator, device=generator.device)
        yield from order[: images // batch * batch].split(batch)


def autocast(device: torch.device, dtype: torch.dtype | None = None) -> torch.autocast:
    """To a dtype; by default bfloat16 on CUDA, float32 elsewhere."""
    if dtype is None:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    lower = dtype != torch.float32
    return torch.autocast(device.type, dtype if lower else torch.bfloat16, enabled=lower)


class Trainer:
    """A training that is taken step by step; on CUDA a step is a graph on a stream of its own.

    The first `EAGER_STEPS` steps run operator by operator, by which kernels are compiled, the
    optimizer gets its state and cuBLAS its workspace: what a capture cannot do. The next one is
    captured, and from then on the graph is replayed on each batch. What a training computes does
    not depend on others that take turns with it.

    Between the first step and `finish` nothing else may use the model.

    Args:
        model: on the device of the data; it is trained in place.
        data: for its training split.
        recipe: of the training.
        seed: of the batches' order and of the augmentation.
        dtype: of the automatic casts, see `autocast`.

    `losses` (steps,) has the loss of every step taken.
    """

    def __init__(
        self,
        model: Any,
        data: FashionMNIST,
        recipe: Recipe,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ):
        device = data.train.labels.device
        self.model, self.data, self.recipe, self.dtype = model.train(), data, recipe, dtype
        self.steps = recipe.epochs * (len(data.train.labels) // recipe.batch)
        self.steps_taken = 0
        groups = param_groups_weight_decay(model, recipe.weight_decay, model.no_weight_decay())
        # A graph reads the learning rate from a tensor, which the schedule fills.
        lr = torch.tensor(recipe.lr, device=device)
        self.optimizer = torch.optim.AdamW(groups, lr, fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, recipe.lr, self.steps, pct_start=0.1, cycle_momentum=False
        )
        self.generator = torch.Generator(device).manual_seed(seed)
        self.batches = endless_batches(len(data.train.labels), recipe.batch, self.generator)
        self.losses = torch.full((self.steps,), torch.nan, device=device)
        self.loss = self.losses[0]
        self.images = torch.empty_like(data.train.images[: recipe.batch])
        self.labels = torch.empty_like(data.train.labels[: recipe.batch])
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device)
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def step(self) -> None:
        """Take the next step."""
        with torch.cuda.stream(self.stream):  # of None: where we are
            chosen = next(self.batches)
            self.images.copy_(augment(self.data.train.images[chosen], self.generator))
            self.labels.copy_(self.data.train.labels[chosen])
            if self.stream is not None and self.steps_taken == EAGER_STEPS:
                self.graph = self.captured_update()
            if self.graph is not None:
                self.graph.replay()
            else:
                self.update()
                if self.stream is not None:  # other streams read the route tables cached here
                    self.stream.synchronize()
            self.losses[self.steps_taken].copy_(self.loss)
            self.schedule.step()
        self.steps_taken += 1

    def update(self) -> None:
        """Forward, backward and optimizer on the batch in `images` and `labels`."""
        self.optimizer.zero_grad()
        with autocast(
            self.images.device, self.dtype
        ):  # opened here, so that a graph casts the weights anew
            logits = self.model(self.data.normalised(self.images))
        loss = F.cross_entropy(
            logits.float(), self.labels, label_smoothing=self.recipe.label_smoothing
        )
        self.loss = loss.detach()
        scale = LOSS_SCALE if self.dtype == torch.float16 else 1.0
        (loss * scale).backward()
        if scale != 1.0:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(1 / scale)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.max_norm)
        self.optimizer.step()

    def captured_update(self) -> torch.cuda.CUDAGraph:
        """The graph of `update`, which is not run here."""
        for group in self.optimizer.param_groups:
            group["capturable"] = True  # earlier, the optimizer would warn in the eager steps
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.update()
        return graph

    def finish(self) -> None:
        """Give the model back, in evaluation mode."""
        if self.stream is not None:
            torch.cuda.current_stream(self.stream.device).wait_stream(self.stream)
        self.optimizer.zero_grad()  # else gradients would keep the graph's memory
        self.model.eval()


def take_turns(trainers: Sequence[Trainer]) -> None:
    """Take all steps of trainings of one length, one of each in turn, and finish them."""
    for _ in range(trainers[0].steps):
        for trainer in trainers:
            trainer.step()
    for trainer in trainers:
        trainer.finish()


@torch.no_grad()
def accuracy(model: Any, data: FashionMNIST, dtype: torch.dtype | None = None) -> float:
    """Share of the test images that a model in evaluation mode classifies correctly."""
    pairs = zip(data.test.images.split(TEST_BATCH), data.test.labels.split(TEST_BATCH), strict=True)
    right = []
    for images, labels in pairs:
        with autocast(labels.device, dtype):
            right.append((model(data.normalised(images)).argmax(1) == labels).sum())
    return float(torch.stack(right).sum()) / len(data.test.labels)
