"""Epochs that a resumed run can enter in the middle."""

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop


def has_epochs(runner) -> bool:
    """Whether a run counts epochs, or steps alone (mmengine's `IterBasedTrainLoop`)."""
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's epoch loop; a run that stopped within an epoch goes on with the next batch.

    The sampler leaves out what was trained (`SeededSampler.skip`), so nothing is loaded in vain.

    Raises:
        ValueError: a sampler that cannot do so, or a stream, which has none.
    """

    def run_epoch(self) -> None:
        done = self._iter - self._epoch * len(self.dataloader)
        if done:
            if not hasattr(self.dataloader.sampler, "skip"):
                raise ValueError(
                    "resuming within an epoch needs the sampler SeededSampler and no batch sampler"
                )
            self.dataloader.sampler.skip(done * self.dataloader.batch_size)
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for index, batch in enumerate(self.dataloader, start=done):
            self.run_iter(index, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
