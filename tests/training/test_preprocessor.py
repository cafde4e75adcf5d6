"""Mixing happens to training batches only, and smoothing in the loss equals timm's."""

import pytest
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy

from visionssm.training import ImageClassifier, MixupPreprocessor
from visionssm.training.randomness import seed_generators

MIXUP = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "num_classes": 10}


def batch(size=8):
    targets = torch.arange(size) % 10
    return {"inputs": torch.randn(size, 3, 32, 32), "targets": targets, "paths": ["x"] * size}


def test_training_batches_get_soft_targets():
    seed_generators(0)
    data = MixupPreprocessor(MIXUP)(batch(), training=True)
    assert data["targets"].shape == (8, 10)
    torch.testing.assert_close(data["targets"].sum(1), torch.ones(8))
    assert (data["targets"].max(1).values < 1).any()
    assert data["paths"] == ["x"] * 8


@pytest.mark.parametrize(("mixup", "training"), [(MIXUP, False), (None, True)])
def test_other_batches_pass_unchanged(mixup, training):
    data = batch()
    passed = MixupPreprocessor(mixup)(data, training=training)
    assert torch.equal(passed["inputs"], data["inputs"])
    assert torch.equal(passed["targets"], data["targets"])


def test_odd_training_batch_is_refused():
    with pytest.raises(ValueError, match="batch of 7 images: mixup needs an even batch size"):
        MixupPreprocessor(MIXUP)(batch(7), training=True)


def test_smoothing_in_the_loss_equals_timms_smoothed_mixup_targets():
    """Both are linear in the target; the tolerance is float32 rounding of a 10-term sum."""
    model = ImageClassifier({"model_name": "test_convnext", "num_classes": 10}, label_smoothing=0.1)
    data = batch()
    seed_generators(1)
    inputs, targets = Mixup(**MIXUP, label_smoothing=0.1)(data["inputs"].clone(), data["targets"])
    expected = SoftTargetCrossEntropy()(model(inputs), targets)
    seed_generators(1)
    mixed = MixupPreprocessor(MIXUP)(data, training=True)
    torch.testing.assert_close(model(**mixed, mode="loss")["loss"], expected, rtol=1e-5, atol=1e-6)
