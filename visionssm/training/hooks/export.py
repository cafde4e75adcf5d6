"""Leaves the trained network as a folder that timm opens."""

from pathlib import Path

import timm
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from visionssm.pruning import prune, save_exported

from ..runner import read_checkpoint
from .checkpoint import best_weights

DATA_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


@HOOKS.register_module()
class ExportHook(Hook):
    """Writes `model.safetensors` and `config.json` of the best (else the last) weights.

    `timm.create_model('local-dir:<work_dir>', pretrained=True)` loads them back. The config holds
    the preprocessing of the validation set (else of the training set; the model's own where that
    has no `transform_args`), and the names of the classes; and how the network is pruned, if it is,
    for `visionssm.pruning.load_exported`.
    """

    priority = "LOWEST"

    @master_only
    def after_train(self, runner) -> None:
        path = best_weights(runner) or Path(runner.work_dir, "last.pth")
        weights = read_checkpoint(path)["state_dict"]
        network = timm.create_model(**{**runner.cfg.model.network, "pretrained": False})
        prefix = "network."
        if runner.cfg.model.get("pruning"):
            prune(network, **runner.cfg.model.pruning)
        network.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items()})
        dataset = (runner.val_loop or runner.train_loop).dataloader.dataset
        transform = getattr(dataset, "transform_args", {})
        data = {k: v for k, v in transform.items() if k in DATA_KEYS}
        export_network(network, runner.work_dir, data, dataset.metainfo["classes"])


def export_network(
    network: nn.Module, folder: str | Path, data_config: dict, classes: tuple[str, ...]
) -> None:
    """Write `network` in timm's folder format; each file appears whole or not at all.

    Args:
        network: a model that `timm.create_model` built.
        folder: where to; other files in it are left alone.
        data_config: its preprocessing, in the words of `timm.data.create_transform`.
        classes: names in the order of the logits.
    """
    labels = {"num_classes": len(classes), "label_names": list(classes)}
    save_exported(network, folder, {"pretrained_cfg": labels}, data_config)
