"""The data set and the training loop, on images made up here."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from benchmarks import fashion_mnist
from benchmarks.fashion_mnist import (
    EAGER_STEPS,
    FashionMNIST,
    Recipe,
    Split,
    Trainer,
    accuracy,
    augment,
    read_idx,
    take_turns,
)
from tests.models.golden import DEVICES
from visionssm.models.vim import Vim
from visionssm.models.vmamba import VMamba
from visionssm.pruning import prune

from .cases import CPU
from .fashion import write_noise_and_black

RECIPE = Recipe(epochs=3, batch=20, lr=1e-2)  # of three steps each
STEPS = 9
assert STEPS > 2 * EAGER_STEPS  # so that most of them are a graph's


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fashion-mnist")
    write_noise_and_black(folder, side=12, train=60, test=100)
    return folder


def vmamba(scan: str = "cross_scan") -> VMamba:
    torch.manual_seed(0)
    return VMamba(in_chans=1, num_classes=10, patch_size=2, depths=(1,), dims=(16,), scan=scan)


def vim(**pruning) -> Vim:
    torch.manual_seed(0)
    model = Vim(
        img_size=16, patch_size=4, stride=4, in_chans=1, num_classes=10, embed_dim=16, depth=4
    )
    return prune(model, 0.5, **pruning) if pruning else model


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("device", DEVICES)
def test_a_training_learns(folder, device):
    data, model = FashionMNIST(folder, torch.device(device)), vmamba().to(device)
    recipe = Recipe(epochs=4, batch=20, lr=1e-2)
    take_turns([Trainer(model, data, recipe)])
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert accuracy(model, data) > 0.9


def test_the_learning_rate_rises_and_falls(folder):
    recipe = dataclasses.replace(RECIPE, epochs=10)
    trainer = Trainer(vmamba(), FashionMNIST(folder, CPU), recipe)
    rates = []
    for _ in range(trainer.steps):
        rates.append([float(group["lr"]) for group in trainer.optimizer.param_groups])
        trainer.step()
    assert trainer.steps_taken == 30
    assert all(len(set(groups)) == 1 for groups in rates)
    assert max(rates) == rates[2]  # after a tenth
    assert rates[2][0] == pytest.approx(recipe.lr)
    assert rates[-1][0] < rates[0][0] < recipe.lr / 10


def test_batches_of_an_epoch_are_all_images_once():
    generator = torch.Generator().manual_seed(0)
    batches = fashion_mnist.endless_batches(11, 5, generator)
    epochs = [torch.cat([next(batches), next(batches)]) for _ in range(2)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 10
    assert not torch.equal(*epochs)


@pytest.mark.parametrize("device", DEVICES)
def test_trainings_that_take_turns_are_what_they_are_alone(folder, device, monkeypatch):
    """The same kernels in the same order give the same bits, if cuDNN's do."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    data = FashionMNIST(folder, torch.device(device))
    models = [vmamba().to(device), vmamba("hilbert").to(device), vmamba().to(device)]
    alone = [copy.deepcopy(model) for model in models]
    take_turns([Trainer(model, data, RECIPE, seed) for seed, model in enumerate(models)])
    for seed, model in enumerate(alone):
        take_turns([Trainer(model, data, RECIPE, seed)])
        assert torch.equal(weights(model), weights(models[seed]))
    assert not torch.equal(weights(models[0]), weights(models[2]))  # but for the seed, alike


def test_images_are_shifted_and_mirrored(folder):
    split = Split(folder, "t10k", CPU)
    assert split.images.shape == (100, 16, 16)
    generator = torch.Generator().manual_seed(0)
    marked = torch.zeros(400, 32, 32, dtype=torch.uint8)
    marked[:, 10, 12] = 7
    found = augment(marked, generator).nonzero()
    assert (augment(marked, generator).sum((1, 2)) == 7).all()
    assert set(found[:, 1].tolist()) == set(range(8, 13))
    assert set(found[:, 2].tolist()) == {*range(10, 15), *range(17, 22)}


def test_a_smaller_training_set_is_the_first_images(folder):
    data, all_data = FashionMNIST(folder, CPU, 20), FashionMNIST(folder, CPU)
    assert torch.equal(data.train.images, all_data.train.images[:20])
    assert len(data.train.labels) == 20
    assert len(data.test.labels) == 100
    normalised = data.normalised(data.train.images)
    assert normalised.shape == (20, 1, 16, 16)
    assert float(normalised.mean()) == pytest.approx(0, abs=1e-5)
    assert float(normalised.std()) == pytest.approx(1, abs=1e-5)


def test_files_of_another_kind_are_refused(folder, tmp_path):
    name = "t10k-labels-idx1-ubyte"
    with pytest.raises(FileNotFoundError, match=name):
        read_idx(tmp_path, name)
    data = (folder / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"expected \(100,\) bytes, got 99"):
        read_idx(tmp_path, name)
    (tmp_path / name).write_bytes(b"\x00\x00\x0d" + data[3:])
    with pytest.raises(ValueError, match="expected an idx file of bytes"):
        read_idx(tmp_path, name)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "model",
    [
        vmamba, vim, lambda: vim(mode="merge"), lambda: vim(importance="random"),
        lambda: vim(time="carried"),
    ],
    ids=["VMamba", "Vim", "merged", "random", "carried"],
)  # fmt: skip
def test_a_graph_trains_as_its_operators_do(folder, model, monkeypatch):
    """Sums in another order change a float32 by 1e-7 of itself, and Adam divides by gradients."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    data = FashionMNIST(folder, torch.device("cuda"))
    captured = model().cuda()
    eager, before = copy.deepcopy(captured), weights(captured)
    trainer = Trainer(captured, data, RECIPE)
    take_turns([trainer])
    assert trainer.graph is not None
    monkeypatch.setattr(fashion_mnist, "EAGER_STEPS", STEPS)
    take_turns([Trainer(eager, data, RECIPE)])
    moved = weights(eager) - before
    assert moved.norm() > 0
    assert (weights(captured) - weights(eager)).norm() < 1e-3 * moved.norm()
