"""Pruned VMamba: the grid stays, scans skip tokens, and the routes' clock goes on."""

from __future__ import annotations

import itertools

import pytest
import torch

from visionssm.analysis.flops import count_flops
from visionssm.models.vmamba import VMamba
from visionssm.ops import selective_scan
from visionssm.ops.selective_scan.reference import scatter_steps
from visionssm.pruning import PrunedVMamba, prune, unprune
from visionssm.pruning.tokens import route_gaps, shorten_routes
from visionssm.pruning.vmamba import KeptRoutes, scan_kept
from visionssm.scans import cross_scan, hilbert

SMALL = dict(depths=(2, 3), dims=(16, 32), num_classes=5)


def small(**kwargs) -> VMamba:
    torch.manual_seed(0)
    model = VMamba(**{**SMALL, **kwargs}).eval()
    for stage in model.stages:
        for block in stage.blocks:  # as after training: at the beginning mixers hardly matter
            torch.nn.init.normal_(block.op.in_proj.weight, std=0.3)
            torch.nn.init.normal_(block.op.out_proj.weight, std=0.3)
    return model


IMAGES = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("routes", [cross_scan((3, 5)), hilbert((3, 5))], ids=["cross", "hilbert"])
def test_shortened_routes_visit_the_kept_tokens_in_order(routes):
    kept = torch.tensor([[0, 3, 4, 7, 9, 14], [1, 2, 5, 6, 8, 13]])
    short, steps = shorten_routes(routes, kept)
    gaps = route_gaps(steps)
    for image, tokens in enumerate(kept.tolist()):
        for k, route in enumerate(routes.tolist()):
            visited = [t for t in route if t in tokens]
            assert kept[image][short[image, k].long()].tolist() == visited
            at = [route.index(t) for t in visited]
            since = [1] + [b - a for a, b in itertools.pairwise(at)]
            assert gaps[image, k].tolist() == since


@pytest.mark.parametrize(("mode", "gate"), [("align", False), ("hard", True)])
def test_used_like_the_original(mode, gate):
    model = small(ssm_gate=gate)
    expected, keys = model(IMAGES), list(model.state_dict())
    assert torch.equal(prune(model, 1.0)(IMAGES), expected)
    prune(model, 0.5, mode=mode)
    assert type(model) is PrunedVMamba
    assert list(model.pruning.schedule.keep) == [0, 2]
    assert list(model.state_dict()) == keys
    pruned = model(IMAGES)
    assert not torch.allclose(pruned, expected)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(IMAGES), pruned)
    maps = model.forward_intermediates(IMAGES, intermediates_only=True)
    assert [m.shape for m in maps] == [(2, 16, 8, 10), (2, 32, 4, 5)]
    model(IMAGES).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    model.set_grad_checkpointing(True)
    torch.testing.assert_close(model.train()(IMAGES), pruned)
    model.set_grad_checkpointing(False)
    assert torch.equal(unprune(model).eval()(IMAGES), expected)
    assert type(model) is VMamba


def test_exports():
    model = prune(small(), 0.5)
    program = torch.export.export(model, (IMAGES,))
    torch.testing.assert_close(program.module()(IMAGES), model(IMAGES))


def test_skipped_tokens_answer_with_the_skip_term_and_let_time_pass():
    mixer = small().stages[0].blocks[0].op
    u = torch.randn(1, 3, 4, 16)
    kept = torch.tensor([[0, 2, 3, 6, 7, 10]])
    routes = cross_scan((3, 4))
    short, steps = shorten_routes(routes, kept)
    gaps = route_gaps(steps)
    y, _ = scan_kept(mixer, u, KeptRoutes(kept, short, gaps))
    tokens = u.flatten(1, 2)
    A, D, bias = mixer.recurrence()
    delta, B, C = mixer.project(tokens)
    elapsed = torch.zeros_like(delta)  # of the kept tokens, in the rows of the whole grid
    dt = torch.nn.functional.softplus(delta + bias[:, None])
    elapsed[:, :, kept[0]] = dt[:, :, kept[0]] * scatter_steps(gaps[..., None], short, 6)
    expected = selective_scan(
        tokens[:, None], delta, A, B, C, D, bias, elapsed=elapsed,
        routes=kept[0][short.long()].int(), reduce="sum", implementation="reference",
    )  # fmt: skip
    skipped = [t for t in range(12) if t not in kept[0].tolist()]
    expected[:, skipped] = (tokens * D.sum(0))[:, skipped]
    torch.testing.assert_close(y.flatten(1, 2), expected, rtol=1e-4, atol=1e-5)


def test_two_removals_in_a_stage_narrow_the_same_set():
    first, second = prune(small(), {2: 0.5, 3: 0.5}).kept_patches(IMAGES)
    assert (first.block, first.grid, first.patches.shape) == (2, (4, 5), (2, 10))
    assert (second.block, second.grid, second.patches.shape) == (3, (4, 5), (2, 5))
    for image in range(2):
        assert set(second.patches[image].tolist()) < set(first.patches[image].tolist())


def test_only_the_scans_part_of_the_flops_is_saved():
    model = small()
    full = count_flops(model, (3, 64, 64))
    share = count_flops(prune(model, 0.5), (3, 64, 64)) / full
    assert 0.8 < share < 1


@pytest.mark.parametrize(("options", "arguments", "message"), [
    ({}, {"mode": "merge"}, "mode: tokens of a grid cannot merge"),
    ({}, {"time": "carried"}, "time: expected 'gap_power' for routes over a grid, got 'carried'"),
    ({}, {"keep": {1: 0.5}}, r"keep: tokens can be removed after the blocks \[0, 2, 3\]"),
    ({"scan": "atrous"}, {}, "model: the routes of its scan 'atrous' do not all visit"),
    ({"scan": "multi_head(heads='CZ')"}, {}, "with all channels"),
])  # fmt: skip
def test_what_a_grid_does_not_allow_is_named(options, arguments, message):
    model = small(**options)
    with pytest.raises(ValueError, match=message):
        prune(model, **arguments)
    assert type(model) is VMamba


@pytest.mark.gpu
def test_compiled_on_gpu_equals_cpu():
    model = prune(small(), 0.5)
    expected = model(IMAGES)
    compiled = torch.compile(model.cuda(), fullgraph=True)
    with torch.no_grad():
        actual = compiled(IMAGES.cuda())
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-3, atol=1e-4)
