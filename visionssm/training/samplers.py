"""Samplers that hand every sample the seed of its own augmentation."""

from collections.abc import Iterator
from itertools import islice

from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS, TRANSFORMS
from timm.data.distributed_sampler import RepeatAugSampler as TimmRepeatAugSampler
from torch.utils.data import Dataset, Sampler

from .randomness import derive_seed, seed_generators


class SeededIndex(int):
    """An index that carries the seed of one sample: what `SeededSampler` yields.

    It keeps the seed where mmengine's `RepeatDataset` and `ConcatDataset` turn it into an index of
    what they wrap.
    """

    seed: int

    def __new__(cls, index: int, seed: int) -> "SeededIndex":
        self = super().__new__(cls, index)
        self.seed = seed
        return self

    def __reduce__(self) -> tuple[type, tuple[int, int]]:
        return SeededIndex, (int(self), self.seed)

    def __mod__(self, length: int) -> "SeededIndex":
        return SeededIndex(int(self) % length, self.seed)

    def __sub__(self, offset: int) -> "SeededIndex":
        return SeededIndex(int(self) - offset, self.seed)


@TRANSFORMS.register_module()
class SeedSample:
    """First in a pipeline of mmdetection or mmsegmentation: seeds what follows by the sample.

    Their data sets hand on the index of a `SeededSampler`. One that a data set drew itself, in
    place of an image that it cannot use, follows from the seed before it.
    """

    def __call__(self, results: dict) -> dict:
        index = results["sample_idx"]
        if isinstance(index, SeededIndex):
            seed_generators(index.seed)
        return results


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler):
    """Pairs each index of another sampler with a seed for that sample's augmentation.

    The seed depends on (run seed, epoch, rank, position in the epoch), so repeats of one image
    differ, epochs differ, and neither the number of workers nor an interruption changes anything.

    Args:
        dataset: what is sampled.
        sampler: config of the sampler that orders the indices, such as
            `dict(type='DefaultSampler')` or `dict(type='RepeatAugSampler', num_repeats=3)`.
        seed: seed of the run, equal on all ranks; None draws one and shares it.

    Raises:
        ValueError: a data set of mmengine that wraps another and hands on an index without the
            seed, such as `ClassBalancedDataset`.
    """

    def __init__(self, dataset: Dataset, sampler: dict, seed: int | None = None) -> None:
        if hasattr(dataset, "get_data_info"):
            handed_on = dataset.get_data_info(SeededIndex(0, seed=0)).get("sample_idx")
            if not isinstance(handed_on, SeededIndex):
                raise ValueError(
                    f"dataset: {type(dataset).__name__} hands on plain indices, without the seeds "
                    "of SeededSampler; take another wrapper, or its inner sampler alone"
                )
        self.seed = sync_random_seed() if seed is None else seed
        self.rank = get_dist_info()[0]
        self.dataset = dataset  # batch samplers look there
        self.epoch = 0
        self.start = 0
        default_args = {"dataset": dataset, "seed": self.seed}
        self.sampler = DATA_SAMPLERS.build(sampler, default_args=default_args)

    def __iter__(self) -> Iterator[SeededIndex]:
        start, self.start = self.start, 0
        for position, index in islice(enumerate(self.sampler), start, None):
            yield SeededIndex(index, derive_seed(self.seed, self.epoch, self.rank, position))

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.sampler.set_epoch(epoch)

    def skip(self, samples: int) -> None:
        """Leave out the first `samples` indices of the next pass: they were trained already."""
        self.start = samples


@DATA_SAMPLERS.register_module()
class RepeatAugSampler(TimmRepeatAugSampler):
    """timm's repeated augmentation (Hoffer et al. 2020), shuffled by the seed of the run.

    Args:
        dataset: what is sampled.
        num_repeats: how many differently augmented copies of an image an epoch draws from.
        seed: seed of the shuffling, equal on all ranks.
    """

    def __init__(self, dataset: Dataset, num_repeats: int = 3, seed: int = 0) -> None:
        rank, world_size = get_dist_info()
        super().__init__(dataset, num_replicas=world_size, rank=rank, num_repeats=num_repeats)
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(self.seed + epoch)
