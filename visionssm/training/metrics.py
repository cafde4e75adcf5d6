"""Accuracy of a classifier, correct for any number of processes."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS


def as_floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics without NumPy's scalars, which JSON and safe checkpoints do not take."""
    return {name: float(value) for name, value in metrics.items()}


@METRICS.register_module()
class TopKAccuracy(BaseMetric):
    """`top1`, `top5`, ... in percent, and `cross_entropy`, the mean over all samples.

    mmengine gathers the results of all processes and drops the samples that the sampler repeated
    to give each process equally many. No name contains "loss", which mmengine's log would average
    over the last epochs.

    Args:
        topk: which k to report; those larger than the number of classes are left out.
    """

    default_prefix = ""

    def __init__(self, topk: tuple[int, ...] = (1, 5)) -> None:
        super().__init__(collect_device="gpu")  # the process group, whatever its device: no files
        self.topk = topk

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        """Note each sample's rank of the true class (0 is best), its loss, and the class count.

        Ties and NaN count against the model: a network that collapsed scores 0, not 100 percent.
        """
        scores = torch.stack([sample["scores"] for sample in data_samples])
        targets = torch.tensor([sample["target"] for sample in data_samples])
        true_scores = scores.gather(1, targets[:, None])
        ranks = (~(scores < true_scores)).sum(1) - 1
        losses = -true_scores[:, 0].clamp_min(torch.finfo(scores.dtype).tiny).log()
        classes = scores.shape[1]
        self.results += [
            (rank, loss, classes)
            for rank, loss in zip(ranks.tolist(), losses.tolist(), strict=True)
        ]

    def compute_metrics(self, results: list[tuple[int, float, int]]) -> dict[str, float]:
        ranks, losses, classes = (torch.tensor(column) for column in zip(*results, strict=True))
        metrics = {
            f"top{k}": 100.0 * (ranks < k).double().mean().item()
            for k in self.topk
            if k <= classes[0]
        }
        return {**metrics, "cross_entropy": losses.double().mean().item()}
