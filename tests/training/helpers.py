"""What several tests of whole runs need."""

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, RUNNERS


@HOOKS.register_module()
class RecordHook(Hook):
    """Keeps every step's loss; pulls the plug after step `stop`, if given."""

    priority = "LOWEST"

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.losses: list[float] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.losses.append(outputs["loss"].item())
        if runner.iter + 1 == self.stop:
            raise KeyboardInterrupt


def unformatted(config: Config) -> Config:
    """Without the formatting that each checkpoint repeats: half the time of runs this short."""
    return Config(config.to_dict(), filename=config.filename, format_python_code=False)


def run(config, **options):
    """Train and return the runner and the recorded losses; a pulled plug is not an error."""
    config.merge_from_dict({"custom_hooks": [{"type": "RecordHook", **options.pop("record", {})}]})
    config.merge_from_dict(options)
    runner = RUNNERS.build(config)
    record = next(hook for hook in runner.hooks if isinstance(hook, RecordHook))
    try:
        runner.train()
    except KeyboardInterrupt:
        pass
    runner.train_dataloader._iterator = None  # as garbage, persistent workers end after 5 seconds
    return runner, record.losses
