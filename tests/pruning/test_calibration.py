"""Calibration reaches its target, prefers blocks that do not matter, and leaves the model alone."""

from __future__ import annotations

import pytest
import torch

from visionssm.analysis.flops import count_flops
from visionssm.models.vim import Vim
from visionssm.pruning import calibrate, prune
from visionssm.pruning.calibration import _spread

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def small(**kwargs) -> Vim:
    torch.manual_seed(0)
    options = dict(img_size=32, patch_size=8, stride=8, embed_dim=16, num_classes=5, d_state=2)
    return Vim(**{**options, "depth": 4, **kwargs}).eval()


def test_reaches_the_target_and_leaves_the_model_as_it_was():
    model = small()
    prune(model, 0.5, "norm", "hard", seed=2)
    before = model.pruning
    schedule = calibrate(model, [(IMAGES, None), IMAGES[:1]], target_flops=0.7)
    assert model.pruning == before
    full = count_flops(small(), (3, 32, 32))
    assert 0.5 < count_flops(prune(small(), schedule), (3, 32, 32)) / full <= 0.7


def test_tokens_go_where_they_do_not_matter():
    """Blocks whose outputs are nothing cannot miss a token, and the class token reads no other."""
    model = small(depth=5)
    for block in model.blocks[3:]:
        torch.nn.init.zeros_(block.mixer.out_proj.weight)
    schedule = calibrate(model, [IMAGES], target_flops=0.85)
    assert set(schedule.keep) == {2}


def test_spread():
    assert _spread(range(3)) == [0, 1, 2]
    assert _spread(range(24)) == [0, 4, 8, 12, 16, 20]


@pytest.mark.parametrize(("arguments", "message"), [
    ({"target_flops": 1.2}, "target_flops: expected a share between 0 and 1, got 1.2"),
    ({"target_flops": 0.01}, "target_flops: 0.* is the least for this model at the blocks"),
    ({"loader": []}, "loader: expected at least one batch"),
    ({"mode": "soft"}, "mode: expected one of"),
])  # fmt: skip
def test_impossible_calls_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        calibrate(**{"model": small(depth=2), "loader": [IMAGES], **arguments})
