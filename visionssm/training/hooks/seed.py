"""Seeds every epoch and step, so that resuming repeats an uninterrupted run."""

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..randomness import derive_seed, seed_generators


@HOOKS.register_module()
class SeedHook(Hook):
    """Derives what mixup, drop path and dropout draw from (run seed, rank, step).

    Samples carry their own seeds (`SeededSampler`); the seed at an epoch's start is for workers
    of iterable datasets, which shuffle by it.
    """

    priority = "VERY_HIGH"

    def before_train_epoch(self, runner) -> None:
        seed_generators(derive_seed(runner.seed, get_rank(), 0, runner.epoch))
        dataset = runner.train_dataloader.dataset
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(runner.epoch)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        seed_generators(derive_seed(runner.seed, get_rank(), 1, runner.iter))
