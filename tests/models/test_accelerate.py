"""`accelerate`: what it swaps, what it leaves, and that nothing else changes."""

from __future__ import annotations

import copy
import io

import pytest
import timm
import torch
from timm.models import efficientvim, reparameterize_model
from torch import nn

import visionssm
from tests.models.golden import DEVICES
from visionssm.layers import HSMSSD

SMALL = {"embed_dim": (16, 24, 32), "depths": (1, 2, 1), "state_dim": (5, 4, 3), "num_classes": 5}
MIXERS = [f"stages.{i}.blocks.{j}.mixer" for i, j in ((0, 0), (1, 0), (1, 1), (2, 0))]


def timm_model(name: str = "efficientvim_m1") -> nn.Module:
    """With every parameter drawn at random: fresh models switch some off."""
    torch.manual_seed(0)
    model = timm.create_model(name, **SMALL)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def no_tf32():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["efficientvim_m1", "efficientvim_m1_dist"])
@pytest.mark.parametrize("training", [False, True])
def test_outputs_and_gradients_are_unchanged(name, training, device, no_tf32):
    model = timm_model(name).train(training).to(device)
    before = copy.deepcopy(model)
    visionssm.accelerate(model)
    image = torch.randn(2, 3, 112, 80, device=device)
    found, expected = model(image), before(image)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    found.square().sum().backward()
    expected.square().sum().backward()
    largest = max(p.grad.abs().max() for p in before.parameters())
    for (key, p), q in zip(model.named_parameters(), before.parameters(), strict=True):
        if key.endswith("mixer.A"):
            assert p.grad.eq(0).all()
        else:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5 * float(largest))


def test_modules_parameters_and_hooks_stay_the_same_objects():
    model = timm_model().eval()
    mixers = {name: model.get_submodule(name) for name in MIXERS}
    parameters = dict(model.named_parameters())
    calls = []
    mixers[MIXERS[0]].register_forward_hook(lambda *args: calls.append(1))
    report = visionssm.accelerate(model)
    assert report.swapped == dict.fromkeys(MIXERS, HSMSSD)
    assert all(model.get_submodule(name) is mixer for name, mixer in mixers.items())
    assert all(type(mixer) is HSMSSD for mixer in mixers.values())
    found = dict(model.named_parameters())
    assert list(found) == list(parameters)
    assert all(found[name] is p for name, p in parameters.items())
    model(torch.randn(1, 3, 64, 64))
    assert calls == [1]


def test_the_report_names_every_module():
    text = repr(visionssm.accelerate(timm_model()))
    assert text.splitlines()[0] == "4 modules swapped"
    for name in MIXERS:
        assert (
            f"  {name}: timm.models.efficientvim.HSMSSD -> visionssm.layers.hsm_ssd.HSMSSD"
            in text.splitlines()
        )


def test_models_inside_larger_ones_are_found():
    model = nn.ModuleDict(
        {
            "backbone": timm.create_model("efficientvim_m2", features_only=True, **SMALL),
            "head": nn.Linear(3, 3),
        }
    )
    before = copy.deepcopy(model)
    assert len(visionssm.accelerate(model).swapped) == 4
    image = torch.randn(1, 3, 96, 64)
    for got, expected in zip(
        model.eval()["backbone"](image), before.eval()["backbone"](image), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_folding_batch_norm_goes_with_it_in_either_order():
    model = timm_model().eval()
    image = torch.randn(1, 3, 64, 96)
    expected = model(image)
    first = copy.deepcopy(model)
    visionssm.accelerate(first)
    first = reparameterize_model(first)
    second = reparameterize_model(model)
    visionssm.accelerate(second)
    for folded in (first, second):
        assert type(folded.stages[0].blocks[0].mixer) is HSMSSD
        assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
        torch.testing.assert_close(folded(image), expected, rtol=1e-4, atol=1e-5)


def test_an_accelerated_model_is_saved_whole():
    model = timm_model().eval()
    visionssm.accelerate(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(torch.load(file, weights_only=False)(image), model(image))


def test_subclasses_with_a_forward_of_their_own_are_left_alone():
    class Other(efficientvim.HSMSSD):
        pass

    model = nn.Sequential(Other(8), efficientvim.HSMSSD(8))
    assert list(visionssm.accelerate(model).swapped) == ["1"]
    assert type(model[0]) is Other


def test_mixers_of_too_many_states_are_left_alone():
    model = nn.Sequential(efficientvim.HSMSSD(8, state_dim=257), efficientvim.HSMSSD(8))
    assert list(visionssm.accelerate(model).swapped) == ["1"]
    assert type(model[0]) is efficientvim.HSMSSD


@pytest.mark.parametrize("name", ["resnet18", "ssm_efficientvim_m1"])
def test_a_model_without_anything_to_swap_is_refused(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(ValueError, match="holds no mixer that can be swapped, expected one of"):
        visionssm.accelerate(model)
