"""EfficientVMamba's own: its scan and others, options of its official code, its published files."""

from __future__ import annotations

import pytest
import timm
import torch

import visionssm
from tests.models.golden import load_golden, manifest, official_weights
from visionssm.models.efficientvmamba import EfficientVMamba, checkpoint_filter_fn, official_layout

SMALL = {"depths": (1, 1, 1), "dims": (8, 16, 24), "num_classes": 5}
OFFICIAL = {**SMALL, "mlp_ratio": 0.0, "downsample_version": "v1"}


def small_model(**options) -> EfficientVMamba:
    torch.manual_seed(0)
    model = EfficientVMamba(**SMALL, **options)
    with torch.no_grad():
        for parameter in model.parameters():  # initial step sizes hardly tell orders apart
            parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


def test_the_atrous_scan_by_name_computes_the_same():
    model = small_model()
    named = timm.create_model("efficientvmamba_tiny", scan="atrous", **SMALL).eval()
    named.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, 36, 52)
    torch.testing.assert_close(named(image), model(image))


def test_other_scans_load_the_same_weights_or_refuse_them():
    model = small_model()
    other = timm.create_model("efficientvmamba_tiny", scan="hilbert", **SMALL).eval()
    other.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, 36, 52)
    assert not torch.allclose(other(image), model(image), rtol=1e-3, atol=1e-3)
    with pytest.raises(RuntimeError, match=r"scan: 'raster' has"):
        EfficientVMamba(scan="raster", **SMALL).load_state_dict(model.state_dict())


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
@pytest.mark.parametrize("entry", ["model", "state_dict"])
def test_published_keys_of_every_nesting_load_strictly(entry, prefix):
    variant = manifest("efficientvmamba")["variants"][0]
    state_dict = {prefix + k: torch.empty(s, device="meta") for k, s in variant["state_dict"]}
    with torch.device("meta"):
        model = timm.create_model("efficientvmamba_tiny")
    model.load_state_dict(checkpoint_filter_fn({entry: state_dict}, model), strict=True)


def small_weights(model: EfficientVMamba) -> dict[str, torch.Tensor]:
    return official_weights(model, official_layout(model))


@pytest.mark.parametrize("options", [
    {"d_state": 8, "dt_rank": 2, "attn_drop_rate": 0.5, "window_size": 4},  # not read there
    {"step_size": 2, "patch_norm": True, "use_checkpoint": True, "drop_path_rate": 0.3},
])  # fmt: skip
def test_options_that_leave_the_function_alone(options):
    model, image = small_model(), torch.randn(2, 3, 40, 33)
    loaded = visionssm.from_official(
        "efficientvmamba", {**OFFICIAL, **options}, small_weights(model)
    )
    assert torch.equal(loaded(image), model(image))


@pytest.mark.parametrize(("options", "other_here"), [
    ({"mlp_ratio": 2.0, "ssm_ratio": 1.0}, {}),
    ({"in_chans": 1, "patch_size": 8, "patch_norm": False}, {}),
    ({"downsample_version": "v2"}, {"downsample": "conv"}),
])  # fmt: skip
def test_options_that_change_the_model(options, other_here):
    model = small_model(**(other_here or options))
    weights = small_weights(model)
    loaded = visionssm.from_official("efficientvmamba", {**OFFICIAL, **options}, weights)
    image = torch.randn(1, options.get("in_chans", 3), 40, 40)
    assert torch.equal(loaded(image), model(image))


@pytest.mark.parametrize(("options", "message"), [
    ({"step_size": 3}, "step_size: expected 2, no published weight uses another value; got 3"),
    ({"ssm_ratio": 3.0}, "ssm_ratio: expected at most 2.0"),
    ({"norm_layer": torch.nn.BatchNorm2d}, "norm_layer: expected"),
    ({"pretrained": "some.pth"}, "pretrained: expected None"),
    ({"dims": (8,)}, "dims: expected 3 stages"),
    ({"out_indices": (0, 3)}, "out_indices: expected stages"),
    ({"se": True}, "kwargs: EfficientVMamba has no option se"),
])  # fmt: skip
def test_unsupported_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        visionssm.from_official("efficientvmamba", {**OFFICIAL, **options}, {})


def test_every_batch_statistic_of_a_published_file_is_loaded():
    case = load_golden("efficientvmamba", "effv_backbone_odd")
    model = visionssm.from_official("efficientvmamba", case.kwargs, case.parameters)
    counted = [v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")]
    assert counted
    assert all(v == 7 for v in counted)


def test_drop_path_reaches_every_block():
    model = EfficientVMamba(**SMALL, drop_path_rate=0.2)
    rates = [getattr(s.blocks[0].drop_path, "drop_prob", 0.0) for s in model.stages]
    assert rates == pytest.approx([0.0, 0.1, 0.2])
