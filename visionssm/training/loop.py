"""Epochs that a resumed run can enter in the middle."""

from typing import Any

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop


def has_epochs(runner) -> bool:
    """Whether a run counts epochs, or steps alone (mmengine's `IterBasedTrainLoop`)."""
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def check_enterable(loop: Any, why: str) -> None:
    """Raise ValueError, which begins with `why`, unless a run can resume within an epoch."""
    skips = hasattr(loop.dataloader.sampler, "skip")
    if not (isinstance(loop, ResumableEpochLoop) and skips):
        raise ValueError(
            f"{why}: resuming within an epoch needs train_cfg=dict(type='ResumableEpochLoop'), "
            "the sampler SeededSampler and no batch sampler"
        )


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
            check_enterable(self, f"resumed at step {self._iter}")
            self.dataloader.sampler.skip(done * self.dataloader.batch_size)
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for index, batch in enumerate(self.dataloader, start=done):
            self.run_iter(index, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
