"""Accuracy against counting by hand."""

import pytest
import torch

from visionssm.training import TopKAccuracy


def evaluate(scores, targets, batch=7, **kwargs):
    metric = TopKAccuracy(**kwargs)
    for begin in range(0, len(targets), batch):
        part = slice(begin, begin + batch)
        metric.process(
            {},
            [
                {"scores": score, "target": target}
                for score, target in zip(scores[part], targets[part].tolist(), strict=True)
            ],
        )
    return metric.evaluate(len(targets))


@pytest.mark.parametrize("classes", [5, 37, 1000])
def test_top_k_counts_samples_whose_class_is_among_the_k_best(classes):
    torch.manual_seed(classes)
    scores = torch.randn(53, classes).softmax(-1)
    targets = torch.randint(classes, (53,))
    best = scores.topk(5).indices
    hits = best == targets[:, None]
    metrics = evaluate(scores, targets)
    assert metrics["top1"] == pytest.approx(100 * hits[:, :1].any(1).double().mean().item())
    assert metrics["top5"] == pytest.approx(100 * hits.any(1).double().mean().item())
    expected = torch.nn.functional.nll_loss(scores.log(), targets).item()
    assert metrics["cross_entropy"] == pytest.approx(expected, rel=1e-5)  # float32 logarithms


def test_k_beyond_the_classes_is_left_out():
    assert set(evaluate(torch.eye(3), torch.arange(3))) == {"top1", "cross_entropy"}


@pytest.mark.parametrize("value", [0.1, float("nan")])
def test_a_collapsed_model_scores_zero(value):
    metrics = evaluate(torch.full((4, 10), value), torch.arange(4))
    assert metrics["top1"] == 0


def test_samples_that_the_sampler_repeated_are_dropped():
    metric = TopKAccuracy()
    metric.process({}, [{"scores": torch.eye(5)[0], "target": target} for target in (0, 1, 0, 0)])
    assert metric.evaluate(2)["top1"] == 50
