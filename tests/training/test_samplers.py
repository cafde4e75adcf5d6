"""Every sample's augmentation is a function of run seed, epoch, rank and position."""

import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.dist import get_dist_info
from mmengine.runner import Runner

import visionssm.training.samplers as samplers
from visionssm.training import RepeatAugSampler, SeededSampler, SeedSample
from visionssm.training.samplers import SeededIndex

from .conftest import loader


def draw(epoch=0, seed=0, skip=0, length=10):
    sampler = SeededSampler(range(length), {"type": "DefaultSampler"}, seed=seed)
    sampler.set_epoch(epoch)
    sampler.skip(skip)
    return pairs(sampler)


def pairs(keys) -> list[tuple[int, int]]:
    """Indices and seeds; of keys equality means the index alone."""
    return [(int(key), key.seed) for key in keys]


def test_order_and_seeds_change_with_epoch_and_run_seed_only():
    assert draw() == draw()
    assert sorted(item for item, _ in draw()) == list(range(10))
    seeds = [seed for _, seed in [*draw(), *draw(epoch=1), *draw(seed=1)]]
    assert len(set(seeds)) == 30
    assert [item for item, _ in draw()] != [item for item, _ in draw(epoch=1)]


def test_skip_continues_where_the_epoch_stopped():
    assert draw(skip=4) == draw()[4:]


def test_skip_holds_for_one_pass_only():
    sampler = SeededSampler(range(10), {"type": "DefaultSampler"}, seed=0)
    sampler.skip(4)
    assert [len(list(sampler)), len(list(sampler)), len(sampler)] == [6, 10, 10]


def test_keys_keep_their_seed_on_the_way_to_a_worker():
    (key,) = SeededSampler(range(1), {"type": "DefaultSampler"}, seed=0)
    assert pairs([pickle.loads(pickle.dumps(key))]) == pairs([key])


def test_first_in_a_pipeline_seeds_what_follows():
    key = SeededIndex(3, seed=7)
    drawn = []
    for index in (key, 3, key):
        assert SeedSample()({"sample_idx": index}) == {"sample_idx": 3}
        drawn.append((random.random(), np.random.random(), torch.rand(()).item()))  # noqa: NPY002
    assert drawn[0] == drawn[2]
    assert not set(drawn[0]) & set(drawn[1])  # another index leaves the generators alone


def drawing_dataset(length: int) -> BaseDataset:
    """Samples are numbers drawn after `SeedSample`, beside the index; every image has a cat."""

    class Drawing(BaseDataset):
        def load_data_list(self):
            return [{}] * length

        def get_cat_ids(self, index):
            return [0]

    pipeline = [SeedSample(), lambda results: (results["sample_idx"], random.random())]
    return Drawing(pipeline=pipeline)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda: RepeatDataset(drawing_dataset(5), times=2),
        lambda: ConcatDataset([drawing_dataset(4), drawing_dataset(6)]),
    ],
    ids=["repeated", "concatenated"],
)
def test_wrapped_data_sets_draw_by_the_seed_of_the_sample(wrap):
    dataset = wrap()
    sampler = SeededSampler(dataset, {"type": "DefaultSampler"}, seed=0)
    passes = []
    for start in (0, 1):
        random.seed(start)
        passes.append([dataset[key] for key in sampler])
    assert passes[0] == passes[1]
    assert len({number for _, number in passes[0]}) == 10


def test_a_wrapper_that_loses_the_seeds_is_refused():
    dataset = ClassBalancedDataset(drawing_dataset(5), oversample_thr=0.5)
    with pytest.raises(ValueError, match="dataset: ClassBalancedDataset hands on plain indices"):
        SeededSampler(dataset, {"type": "DefaultSampler"}, seed=0)


def test_repeats_of_an_image_are_augmented_differently():
    sampler = SeededSampler(range(9), {"type": "RepeatAugSampler", "num_repeats": 3}, seed=0)
    keys = pairs(sampler)
    assert len(keys) == 9
    assert len({item for item, _ in keys}) == 3
    assert len({seed for _, seed in keys}) == 9


def test_repeated_augmentation_spreads_the_repeats_over_processes(monkeypatch):
    shares = []
    for rank in range(3):
        monkeypatch.setattr(samplers, "get_dist_info", lambda rank=rank: (rank, 3))
        shares.append(list(RepeatAugSampler(range(300), num_repeats=3, seed=5)))
    assert shares[0] == shares[1] == shares[2]
    monkeypatch.setattr(samplers, "get_dist_info", get_dist_info)
    assert list(RepeatAugSampler(range(300), seed=0)) != list(RepeatAugSampler(range(300), seed=5))


@pytest.mark.parametrize("workers", [1, 2])
def test_augmented_batches_do_not_depend_on_the_number_of_workers(image_root, workers):
    def batches(num_workers):
        config = loader(image_root, "train", num_workers=num_workers)
        dataloader = Runner.build_dataloader(config, seed=3)
        dataloader.sampler.set_epoch(2)
        return torch.cat([batch["inputs"] for batch in dataloader])

    assert torch.equal(batches(workers), batches(0))
