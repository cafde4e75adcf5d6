"""Parameter groups, accumulation, clipping and bfloat16."""

import copy

import pytest
import timm
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from visionssm.training import (
    BFloat16OptimWrapper,
    ImageClassifier,
    TimmParamGroups,
    bfloat16_autocast,
)


class Network(nn.Module):
    """Two layers, of which one has a parameter that must not decay though it is a matrix."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.decay_rates = nn.Parameter(torch.ones(4, 2))
        self.head = nn.Linear(4, 2)

    def no_weight_decay(self):
        return {"decay_rates"}

    def group_matcher(self, coarse=False):
        return {"stem": r"^stem", "block": r"^norm|^decay_rates"}

    def forward(self, x):
        return self.head(self.norm(self.stem(x)) @ self.decay_rates @ self.decay_rates.T)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = Network()


def build(model, wrapper="OptimWrapper", paramwise_cfg=None, **settings):
    optimizer = {"type": "AdamW", "lr": 0.1, "weight_decay": 0.05}
    cfg = {"type": wrapper, "optimizer": optimizer, **settings}
    return TimmParamGroups(cfg, paramwise_cfg)(model)


def settings_by_name(model, wrapper, key):
    names = {parameter: name for name, parameter in model.network.named_parameters()}
    return {
        names[parameter]: group[key]
        for group in wrapper.optimizer.param_groups
        for parameter in group["params"]
    }


def test_only_matrices_that_the_network_does_not_exempt_decay():
    model = Model()
    decay = settings_by_name(model, build(model), "weight_decay")
    assert {name for name, value in decay.items() if value} == {"stem.weight", "head.weight"}
    assert len(decay) == len(list(model.network.parameters()))


def test_every_parameter_of_our_vmamba_is_in_one_group_and_state_parameters_do_not_decay():
    model = Model()
    model.network = timm.create_model("vmamba_pico")
    decay = settings_by_name(model, build(model), "weight_decay")
    assert len(decay) == len(list(model.network.parameters()))
    exempt = model.network.no_weight_decay()
    assert all(not value for name, value in decay.items() if name in exempt or "norm" in name)
    assert all(not decay[name] for name in decay if name.endswith(".bias"))


def test_layer_decay_scales_the_learning_rate_by_depth():
    model = Model()
    wrapper = build(model, paramwise_cfg={"layer_decay": 0.5})
    rates = settings_by_name(model, wrapper, "lr")
    assert rates["head.weight"] == pytest.approx(0.1)
    assert rates["norm.weight"] == rates["decay_rates"] == pytest.approx(0.05)
    assert rates["stem.weight"] == rates["stem.bias"] == pytest.approx(0.025)
    decay = settings_by_name(model, wrapper, "weight_decay")
    assert {name for name, value in decay.items() if value} == {"stem.weight", "head.weight"}


@pytest.mark.parametrize(
    ("optimizer", "paramwise", "message"),
    [
        ({"type": "AdamW"}, None, "expected an explicit lr"),
        ({"type": "AdamW", "lr": 1.0}, {"bias_decay_mult": 0.0}, "expected only 'layer_decay'"),
    ],
)
def test_unknown_settings_are_refused(optimizer, paramwise, message):
    with pytest.raises(ValueError, match=message):
        TimmParamGroups({"type": "OptimWrapper", "optimizer": optimizer}, paramwise)


def test_two_accumulated_halves_equal_one_whole_batch():
    """Equal up to float32 rounding of the mean; Adam divides by |gradient|, hence plain SGD."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(8, 4), torch.arange(8) % 2
    updated = []
    for parts in (1, 2):
        torch.manual_seed(1)
        network = Network()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        wrapper = OptimWrapper(optimizer, accumulative_counts=parts)
        for x, y in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
            with wrapper.optim_context(network):
                loss = nn.functional.cross_entropy(network(x), y)
            wrapper.update_params(loss)
        updated.append(network.state_dict())
    for name, value in updated[0].items():
        torch.testing.assert_close(value, updated[1][name], rtol=1e-5, atol=1e-6)


def test_clipping_bounds_the_gradient_that_the_optimizer_sees():
    model = Model()
    wrapper = build(model, clip_grad={"max_norm": 1e-3})
    seen = []
    wrapper.optimizer.register_step_pre_hook(
        lambda *_: seen.append(
            torch.stack([p.grad.norm() for p in model.network.parameters()]).norm().item()
        )
    )
    wrapper.update_params(model.network(torch.randn(8, 4)).square().sum() * 100)
    assert seen == [pytest.approx(1e-3, rel=1e-4)]


def test_bfloat16_autocast_trains_on_the_cpu_with_float32_weights():
    torch.manual_seed(0)
    model = ImageClassifier({"model_name": "test_convnext", "num_classes": 5})
    before = copy.deepcopy(model.state_dict())
    wrapper = build(model, wrapper="BFloat16OptimWrapper")
    assert isinstance(wrapper, BFloat16OptimWrapper)
    logits = []
    model.network.register_forward_hook(lambda *call: logits.append(call[-1]))
    data = {"inputs": torch.randn(4, 3, 32, 32), "targets": torch.arange(4), "paths": [""] * 4}
    log = model.train_step(data, wrapper)
    assert logits[0].dtype == torch.bfloat16
    assert log["loss"].dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Levels(nn.Linear):
    """A linear layer on each of several maps."""

    def forward(self, maps):
        return tuple(map(super().forward, maps))


@pytest.mark.parametrize("neck", [True, False])
@pytest.mark.parametrize("stages", [1, 2])
def test_what_mmcv_reads_of_a_detector_stays_in_float32(stages, neck):
    """Maps for RoI heads, outputs of dense heads; maps for dense heads alone are autocast."""
    model = nn.Module()
    model.backbone = Levels(4, 4)
    if neck:
        model.neck = Levels(4, 4)
    model.register_module("rpn_head" if stages == 2 else "bbox_head", Levels(4, 4))
    if stages == 2:
        model.roi_head = nn.Linear(4, 4)
    dense_head = model.rpn_head if stages == 2 else model.bbox_head
    with bfloat16_autocast(model):
        maps = model.backbone([torch.randn(2, 4)] * 2)
        if neck:
            maps = model.neck(maps)
        outputs = dense_head(maps)
        regions = model.roi_head(maps[0]) if stages == 2 else None
    assert {m.dtype for m in maps} == {torch.float32 if stages == 2 else torch.bfloat16}
    assert {x.dtype for x in outputs} == {torch.float32}
    assert regions is None or regions.dtype == torch.bfloat16
    assert not any(module._forward_hooks for module in model.modules())
