"""`prune` and `unprune`: arguments, models that cannot, and models of other people."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from torch import nn

from visionssm.models.vim import Vim
from visionssm.pruning import Pruning, prune, register_pruned_form, unprune
from visionssm.pruning.protocol import _forms

TINY = dict(img_size=32, depth=4, embed_dim=16, num_classes=2, d_state=2)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"mode": "soft"}, r"mode: expected one of \('align', 'hard', 'merge'\), got 'soft'"),
    ({"time": "none"}, "time: expected one of"),
    ({"importance": "attention"}, "importance: expected one of .* or a function, got 'attention'"),
    ({"keep": {3: 0.5}}, "keep: tokens can be removed after the blocks 0 to 2 of this model"),
    ({"keep": "top_vim_5_10_15_keep80"}, "keep: tokens can be removed after"),
])  # fmt: skip
def test_bad_arguments_are_named_and_leave_the_model_alone(arguments, message):
    model = Vim(**TINY)
    with pytest.raises(ValueError, match=message):
        prune(model, **arguments)
    assert type(model) is Vim


@pytest.mark.parametrize(("name", "reason"), [
    ("spatial_mamba_tiny", "mixes neighbours on the grid"),
    ("vssd_micro", "without an order"),
    ("ssm_efficientvim_m1", "hidden states instead of tokens"),
    ("efficientvmamba_tiny", "skip tokens already"),
    ("resnet18", "expected one of Vim, VMamba, or a class that register_pruned_form knows"),
])  # fmt: skip
def test_models_that_cannot_be_pruned_say_why(name, reason):
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(ValueError, match=f"model: .* cannot be pruned.*{reason}"):
        prune(model)


def test_description_makes_the_same_again():
    model = prune(Vim(**TINY), {0: 0.5, 2: 0.75}, "norm", "merge", time="carried", seed=3)
    assert str(model.pruning) == (
        "keep 0.5 after 0, 0.75 after 2 (blocks from 0), by norm, merge, time carried"
    )
    stored = json.loads(json.dumps(model.pruning.to_dict()))
    assert prune(Vim(**TINY), **stored).pruning == model.pruning
    assert model.pruning.apply(Vim(**TINY)).pruning == model.pruning
    prune(model, 0.5, lambda output: output.tokens.sum(-1))
    with pytest.raises(ValueError, match=r"importance: expected one of .* to be stored"):
        model.pruning.to_dict()


def test_a_model_of_ones_own():
    class Mine(nn.Module):
        pass

    class PrunedMine(Mine):
        pruning: Pruning

        def prunable_blocks(self):
            return range(2), (1,)

        def check_pruning(self, pruning):
            if pruning.mode == "merge":
                raise ValueError("mode: no")

        def switch_parts(self, pruned):
            self.switched = pruned

    try:
        assert register_pruned_form(Mine)(PrunedMine) is PrunedMine
        model = prune(Mine())
        assert type(model) is PrunedMine
        assert model.switched
        assert model.pruning.schedule.keep == {1: 0.7}
        with pytest.raises(ValueError, match="mode: no"):
            prune(model, mode="merge")
        assert type(unprune(model)) is Mine
        assert not model.switched
        with pytest.raises(ValueError, match="model_class: Mine has a pruned form already"):
            register_pruned_form(Mine)(PrunedMine)
        with pytest.raises(ValueError, match="model_class: expected a base of PrunedMine"):
            register_pruned_form(nn.Linear)(PrunedMine)
    finally:
        _forms.pop(Mine, None)
