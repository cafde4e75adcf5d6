"""SSMBackbone: maps, goldens, freezing, checkpointing, what both toolboxes see of it."""

from __future__ import annotations

import itertools

import pytest
import timm
import torch

from tests.models.golden import DEVICES, assert_golden, golden_names, load_golden
from tests.openmmlab.cases import SMALL, build_in_scope, each_family, small_backbone
from visionssm.models import list_models

ODD = (70, 101)  # pixels; divisible by no stride


def staged(kwargs: dict) -> dict:
    return {
        "dims": tuple(kwargs["dims"] * 2**i for i in range(len(kwargs["depths"]))),
        "depths": tuple(kwargs["depths"]),
    }


GOLDEN_BACKBONES = {  # family -> a registered model, and its options for official arguments
    "vmamba": ("vmamba_tiny_s1l8", staged),
    "spatialmamba": ("spatial_mamba_tiny", staged),
    "efficientvmamba": ("efficientvmamba_tiny", staged),
    "efficientvim": (
        "ssm_efficientvim_m1",
        lambda kwargs: {
            "out_norm": False,
            **{key: tuple(kwargs[key]) for key in ("embed_dim", "depths", "state_dim")},
        },
    ),
    "vssd": (
        "vssd_tiny",
        lambda kwargs: {
            **staged({"dims": kwargs["embed_dim"], **kwargs}),
            "num_heads": tuple(kwargs["num_heads"]),
            "d_state": kwargs["d_state"],
            "mlp_ratio": kwargs["mlp_ratio"],
        },
    ),
}
goldens = [
    (family, name)
    for family in sorted(GOLDEN_BACKBONES.keys() & SMALL.keys())
    for name in golden_names(family)
    if "backbone" in name
]


@pytest.fixture(autouse=True)
def no_tf32():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("family", "name"), goldens)
def test_golden_backbone(family, name, device, tmp_path):
    """An official dense backbone's file gives its maps."""
    case = load_golden(family, name)
    torch.save({"model": case.parameters}, tmp_path / "official.pth")
    arch, options = GOLDEN_BACKBONES[family]
    backbone = build_in_scope(
        "mmdet",
        {
            "type": "SSMBackbone",
            "arch": arch,
            "init_cfg": {"type": "Pretrained", "checkpoint": str(tmp_path / "official.pth")},
            **options(case.kwargs),
        },
    )
    backbone.init_weights()
    maps = backbone.eval().to(device)(case.tensors["input"].to(device))
    found = {f"feat/{i}": x for i, x in enumerate(maps)} | {"output": maps[-1]}
    assert_golden(case, found, device)


@each_family
def test_maps_have_the_stated_channels_and_strides_at_any_size(family):
    backbone = small_backbone(family).eval()
    for height, width in ((128, 64), (64, 192)):
        maps = backbone(torch.randn(1, 3, height, width))
        assert isinstance(maps, tuple)
        assert [tuple(m.shape) for m in maps] == [
            (1, channels, height // stride, width // stride)
            for channels, stride in zip(backbone.out_channels, backbone.strides, strict=True)
        ]
        assert all(m.is_contiguous() for m in maps)


@each_family
def test_maps_are_those_of_timm_with_a_norm_of_their_own(family):
    backbone = small_backbone(family, out_norm=False).eval()
    arch, sizes = SMALL[family]
    if "dynamic_img_size" in backbone.arch_options:
        sizes = {**sizes, "dynamic_img_size": True}
    timm_model = timm.create_model(
        arch, features_only=True, out_indices=backbone.out_indices, **sizes
    ).eval()
    own = {k.removeprefix("model."): v for k, v in backbone.state_dict().items()}
    timm_model.model.load_state_dict(own, strict=False)
    image = torch.randn(1, 3, *ODD)
    plain = backbone(image)
    for ours, theirs in zip(plain, timm_model(image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    normed = small_backbone(family).eval()
    normed.load_state_dict(backbone.state_dict(), strict=False)
    for i, raw, out in zip(normed.out_indices, plain, normed(image), strict=True):
        torch.nn.init.normal_(getattr(normed, f"outnorm{i}").weight)
        expected = torch.nn.functional.layer_norm(raw.permute(0, 2, 3, 1), raw.shape[1:2])
        torch.testing.assert_close(out, expected.permute(0, 3, 1, 2))
    assert not torch.equal(normed(image)[0], out)  # each has parameters


@each_family
def test_checkpointing_changes_memory_alone(family):
    image = torch.randn(2, 3, *ODD)
    gradients = []
    for with_cp in (False, True):
        backbone = small_backbone(family, with_cp=with_cp).train()
        sum(m.square().sum() for m in backbone(image)).backward()
        gradients.append({name: p.grad for name, p in backbone.named_parameters()})
    assert all(g is not None for g in gradients[0].values())  # DistributedDataParallel asks for it
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradient, gradients[0][name], msg=name)


@each_family
def test_checkpointing_keeps_fewer_activations(family):
    def saved(with_cp: bool) -> int:
        sizes = []

        def keep(x):
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            small_backbone(family, with_cp=with_cp).train()(torch.randn(2, 3, 64, 64))
        return sum(sizes)

    assert saved(True) < 0.8 * saved(False)


@each_family
@pytest.mark.parametrize("frozen_stages", [-1, 0, 1])
def test_frozen_stages_get_no_gradient_and_stay_in_evaluation_mode(family, frozen_stages):
    backbone = small_backbone(family, frozen_stages=frozen_stages, drop_path_rate=0.1).train()
    first = backbone.stages[0]
    container = first.split(".")[0]
    for name, parameter in backbone.model.named_parameters():
        in_stem = not name.startswith(f"{container}.")
        frozen = frozen_stages >= 0 and (
            in_stem or (frozen_stages > 0 and name.startswith(f"{first}."))
        )
        assert parameter.requires_grad != frozen, name
    assert backbone.model.get_submodule(first).training == (frozen_stages < 1)
    assert backbone.model.get_submodule(backbone.stages[-1]).training
    norms = [p for name, p in backbone.named_parameters() if name.startswith("outnorm")]
    assert norms
    assert all(p.requires_grad for p in norms)


def test_norm_eval_keeps_running_statistics():
    for norm_eval in (False, True):
        backbone = small_backbone("efficientvim", norm_eval=norm_eval).train()
        before = {k: v.clone() for k, v in backbone.state_dict().items() if "running_" in k}
        backbone(torch.randn(2, 3, 64, 64))
        same = [torch.equal(v, before[k]) for k, v in backbone.state_dict().items() if k in before]
        assert same
        assert all(same) == norm_eval
        assert backbone.training


@each_family
def test_stages_that_no_map_needs_are_left_out(family):
    backbone = small_backbone(family, out_indices=[0])
    assert len(backbone.stages) == 1
    assert not any(name.startswith("model.head") for name, _ in backbone.named_parameters())
    sum(m.sum() for m in backbone.train()(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_every_model_is_found_under_either_scope():
    with torch.device("meta"):
        for arch, scope in zip(list_models(), itertools.cycle(["mmdet", "mmseg"]), strict=False):
            backbone = build_in_scope(scope, {"type": "SSMBackbone", "arch": arch})
            assert len(backbone.out_channels) == len(backbone.strides) > 0


@each_family
def test_mmseg_takes_the_models_through_its_timm_backbone_too(family):
    arch, sizes = SMALL[family]
    cfg = {"type": "TIMMBackbone", "model_name": arch, "pretrained": False, **sizes}
    stages = small_backbone(family).out_indices
    backbone = build_in_scope("mmseg", {**cfg, "out_indices": stages}).eval()
    image = torch.randn(1, 3, 224, 224)  # the size that a Vim is built for
    shapes = [m.shape for m in small_backbone(family)(image)]
    assert [m.shape for m in backbone(image)] == shapes


@pytest.mark.parametrize(("kwargs", "message"), [
    ({"arch": "vmamba_tiny"}, "arch: expected a model of visionssm.*vmamba_tiny_s2l5"),
    ({"out_indices": [0, 5]}, "out_indices: expected stages from 0 to 1"),
    ({"frozen_stages": 3}, "frozen_stages: expected -1 to 2, got 3"),
    ({"out_indices": 3}, "out_indices: expected None or a list of stages, got 3"),
    ({"features_only": True}, "features_only: a backbone gives maps anyway"),
    ({"pruning": True}, "pruning: expected None or a dict of arguments .*, got True"),
    ({"pretrained": True}, "pretrained: expected init_cfg"),
    ({"init_cfg": "vmamba.pth"}, "init_cfg: expected None or dict"),
    ({"init_cfg": {"type": "Pretrained"}}, "init_cfg: expected None or dict"),
])  # fmt: skip
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        small_backbone("vmamba", **kwargs)


@pytest.mark.parametrize(("family", "keep"), [("vim", {0: 0.5}), ("vmamba", 0.5)])
def test_pruned_backbone_has_whole_maps(family, keep):
    """Of any image size, with gradients, and with every token back at its place."""
    options = {"depth": 3} if family == "vim" else {"depths": (2, 2)}
    plain = small_backbone(family, **options)
    pruned = small_backbone(family, pruning={"keep": keep}, **options)
    pruned.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, *ODD)
    expected, maps = plain.eval()(image), pruned.eval()(image)
    assert [m.shape for m in maps] == [m.shape for m in expected]
    assert not torch.equal(maps[-1], expected[-1])
    pruned.train()
    sum(m.square().sum() for m in pruned(image)).backward()
    assert all(p.grad is not None for p in pruned.parameters())


def test_a_backbone_that_cannot_be_pruned_says_why():
    with pytest.raises(ValueError, match="cannot be pruned: its state fusion"):
        small_backbone("spatialmamba", pruning={"keep": 0.5})
