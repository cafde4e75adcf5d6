"""Pruned Vim: what stays the same, what goes on in time and place, and the released code's step."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import visionssm
from tests.models.golden import DEVICES, GOLDEN
from visionssm.layers import BidirectionalMamba
from visionssm.models.vim import MIXER_PARTS, Vim, VimBlock
from visionssm.ops import selective_scan
from visionssm.pruning import PrunedVim, prune, unprune
from visionssm.pruning.importance import BlockOutput, positive_sum, random_importance
from visionssm.pruning.tokens import take
from visionssm.pruning.vim import run_block
from visionssm.scans import scan_routes

SMALL = dict(img_size=32, patch_size=4, stride=4, depth=6, embed_dim=32, num_classes=5, d_state=4)
WAYS = [("align", "gap_power"), ("align", "carried"), ("hard", "gap_power"), ("merge", "gap_power")]
# Functions of one function that compute it in another order.
FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}

RELEASED = json.loads((GOLDEN / "pruning" / "top_vim_layer.json").read_text())["cases"]


def small(**kwargs) -> Vim:
    torch.manual_seed(0)
    return Vim(**{**SMALL, **kwargs}).eval()


def images(model: Vim, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, *model.patch_embed.img_size, generator=generator)


@pytest.mark.parametrize("options", [{}, {"class_token": False, "global_pool": "avg"}])
def test_keeping_all_changes_nothing_and_unprune_restores(options):
    model = small(**options)
    x = images(model)
    expected, keys = model(x), list(model.state_dict())
    assert visionssm.prune(model, keep=1.0) is model
    assert type(model) is PrunedVim
    assert list(model.state_dict()) == keys
    assert torch.equal(model(x), expected)
    prune(model, keep=0.5)
    assert not torch.allclose(model(x), expected)
    assert visionssm.unprune(model) is model
    assert type(model) is Vim
    assert not hasattr(model, "pruning")
    assert torch.equal(model(x), expected)
    assert unprune(model) is model


@pytest.mark.parametrize(("mode", "time"), WAYS)
def test_used_like_the_original(mode, time):
    model = prune(small(depth=3), {0: 0.6, 1: 0.6}, mode=mode, time=time)
    x = images(model)
    expected = model(x)
    assert expected.shape == (2, 5)
    assert model.forward_features(x).shape == (2, 1 + 24, 32)  # of 64 patches 39, then 24
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).isfinite().all()
    model.train()
    model(x).square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    model.zero_grad()
    model.set_grad_checkpointing(True)
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], **FLOAT32)


def test_exports():
    model = prune(small(depth=3), {0: 0.6, 1: 0.6})
    x = images(model)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))


def plain_layer(mixer: BidirectionalMamba, x, kept, elapsed_of):
    """The mixer on kept tokens of one image, a loop a direction: (n, dim)."""
    inner, z = mixer.in_proj(x[None]).chunk(2, dim=-1)
    inner = mixer.convolve(inner)
    delta, B, C = mixer.project(inner)
    dt = F.softplus(delta + mixer.step_size_bias()[:, None])[0]
    A = -mixer.A_log.exp().unflatten(0, (2, -1))
    D = mixer.D.unflatten(0, (2, -1))
    total = torch.zeros_like(inner[0, :, 0])
    for k in (0, 1):
        state = torch.zeros_like(A[k])
        order = list(range(len(kept)))
        previous = None
        for i in order if k == 0 else reversed(order):
            e = elapsed_of(k, i, previous, dt)
            u = inner[0, i, k]
            state = torch.exp(e[:, None] * A[k]) * state + (dt[k, i] * u)[:, None] * B[0, k, i]
            total[i] = total[i] + state @ C[0, k, i] + D[k] * u
            previous = i
    return mixer.gate(total[None], z)[0]


@pytest.mark.parametrize(("mode", "time"), [w for w in WAYS if w[0] != "merge"])
def test_time_passes_where_tokens_were_removed(mode, time):
    """The whole network by hand, token by token, after one removal."""
    model = prune(small(depth=3), {0: 0.3}, mode=mode, time=time)
    x = images(model, batch=1)
    with torch.no_grad():
        stream = model.embed(x)
        removing = model.blocks[0]
        after, trace = run_block(removing, stream, None, "carried", traced=True)
        scores = positive_sum(trace.scanned)[0]
        scores[32] = float("inf")  # the class token
        kept = scores.topk(1 + 20).indices.sort().values.tolist()
        dt0 = trace.step_sizes[0]

        def elapsed_of(k, i, previous, dt):
            if mode == "hard" or previous is None:
                return dt[k, i]
            low, high = sorted((kept[previous], kept[i]))
            if time == "gap_power":
                return dt[k, i] * (high - low)
            return dt[k, i] + dt0[k, low + 1 : high].sum(0)

        tokens = after[0, kept]
        for block in model.blocks[1:]:
            tokens = tokens + plain_layer(block.mixer, block.norm(tokens), kept, elapsed_of)
        expected = model.head(model.norm(tokens[kept.index(32)]))
        torch.testing.assert_close(model(x)[0], expected, **FLOAT32)


def test_the_class_token_stays_between_its_neighbours():
    def first_patches(output):  # leaves nothing after the class token
        return -output.positions.float()

    model = prune(small(), {1: 0.25}, importance=first_patches)
    x = images(model)
    *_, (_, tokens) = model.run_blocks(model.embed(x))
    assert tokens.positions.tolist() == [[*range(16), 32]] * 2
    assert tokens.class_index.tolist() == [[16]] * 2
    final = model.norm(tokens.x)
    torch.testing.assert_close(model.forward_features(x)[:, 8], final[:, 16])
    torch.testing.assert_close(model(x), model.head(final[:, 16]))
    patches = torch.cat([model.forward_features(x)[:, :8], model.forward_features(x)[:, 9:]], 1)
    torch.testing.assert_close(patches, final[:, :16])


def test_scores_of_another_shape_are_named():
    model = prune(small(), 0.5, lambda output: output.tokens)
    with pytest.raises(
        ValueError, match=r"importance: expected scores \(2, 65\), got \(2, 65, 32\)"
    ):
        model(images(model))


def test_every_image_keeps_its_own_tokens():
    model = prune(small(), 0.5)
    x = images(model, batch=3)
    together = model(x)
    for i in range(3):
        torch.testing.assert_close(model(x[i : i + 1])[0], together[i], **FLOAT32)
    *_, (_, tokens) = model.run_blocks(model.embed(x))
    assert len({tuple(row) for row in tokens.positions.tolist()}) == 3


@pytest.mark.parametrize("class_token", [True, False])
def test_maps_hold_each_patch_at_its_place_with_its_last_features(class_token):
    pool = "token" if class_token else "avg"
    model = prune(small(class_token=class_token, global_pool=pool), {1: 0.5, 3: 0.5})
    x = images(model)
    features, maps = model.forward_intermediates(x, output_fmt="NHWC")
    torch.testing.assert_close(features, model.forward_features(x))
    assert [m.shape for m in maps] == [(2, 8, 8, 32)] * 6
    full = model.embed(x)
    for (_, tokens), found in zip(model.run_blocks(full), maps, strict=True):
        full = full.clone()
        for image, row in enumerate(tokens.positions.tolist()):
            full[image, row] = tokens.x[image]
        patches = torch.cat([full[:, :32], full[:, 33:]], 1) if class_token else full
        torch.testing.assert_close(found.flatten(1, 2), patches)
    unpruned = unprune(copy.deepcopy(model)).forward_intermediates(x, [0, 1])[1]
    torch.testing.assert_close(maps[1].permute(0, 3, 1, 2), unpruned[1])
    stopped = model.forward_intermediates(x, [2], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(stopped[0].permute(0, 2, 3, 1), maps[2])


def test_kept_patches_are_counted_without_the_class_token():
    model = prune(small(), {1: 0.5, 3: 0.25})
    x = images(model)
    first, second = model.kept_patches(x)
    assert (first.block, first.grid, first.patches.shape) == (1, (8, 8), (2, 32))
    assert (second.block, second.patches.shape) == (3, (2, 8))
    *_, (_, tokens) = model.run_blocks(model.embed(x))
    for image in range(2):
        places = [p for p in tokens.positions[image].tolist() if p != 32]
        assert second.patches[image].tolist() == [p - (p > 32) for p in places]
        assert set(second.patches[image].tolist()) < set(first.patches[image].tolist())


def test_random_importance_repeats_by_seed():
    first, again = prune(small(), 0.5, "random", seed=3), prune(small(), 0.5, "random", seed=3)
    other = prune(small(), 0.5, "random", seed=4)
    x = images(first)
    assert torch.equal(first(x), again(x))
    assert not torch.allclose(first(x), other(x))


def test_random_importance_is_uniform_over_images_positions_blocks_and_seeds():
    """A thousand positions of 16 images, in four blocks, by four seeds: none follows another."""
    positions = torch.arange(1000).expand(16, -1)
    nothing = torch.empty(0)
    scores = torch.stack(
        [
            random_importance(BlockOutput(nothing, nothing, positions, block, seed))
            for block in (0, 1, 2, 12)
            for seed in (0, 1, 2, 2**40 + 7)
        ]
    ).flatten(0, 1)  # (256, 1000)
    places = scores.double() / 2**31
    assert places.min() >= 0
    assert places.max() <= 1
    assert (places.mean(1) - 0.5).abs().max() < 0.05  # five times the standard error
    assert (places.mean(0) - 0.5).abs().max() < 0.1
    others = torch.corrcoef(places).fill_diagonal_(0)
    assert others.abs().max() < 0.18  # 32,000 pairs, standard deviation 0.032


def test_norm_importance_and_any_image_size():
    model = prune(small(dynamic_img_size=True), 0.5, "norm")
    assert model(torch.randn(1, 3, 48, 20)).shape == (1, 5)


def released_blocks(name: str, tensors: dict, case: dict) -> VimBlock:
    """A block of the released code's weights, float64."""
    block = VimBlock(case["D"]).double()
    block.mixer = BidirectionalMamba(case["D"], d_state=case["d_state"]).double()
    weights = {
        key.removeprefix(f"{case['name']}/{name}."): t.double()
        for key, t in tensors.items()
        if key.startswith(f"{case['name']}/{name}.")
    }
    for own, parts in MIXER_PARTS.items():
        weights[f"mixer.{own}"] = torch.cat([weights.pop(f"mixer.{part}") for part in parts])
    block.load_state_dict(weights)
    block.mixer.to(torch.float64)
    return block


def gated_directions(mixer: BidirectionalMamba, x: torch.Tensor) -> torch.Tensor:
    """What the mixer adds up over the directions and projects, (b, 2, l, d)."""
    inner, z = mixer.in_proj(x).chunk(2, dim=-1)
    inner = mixer.convolve(inner)
    delta, B, C = mixer.project(inner)
    y = selective_scan(
        inner.transpose(1, 2), delta, -mixer.A_log.exp().unflatten(0, (2, -1)), B, C,
        mixer.D.unflatten(0, (2, -1)), mixer.step_size_bias(),
        routes=scan_routes("bidirectional", 1, x.shape[1], x),
    )  # fmt: skip
    return y * mixer.act(z)[:, None]


@pytest.mark.parametrize("case", RELEASED, ids=lambda case: case["name"])
@pytest.mark.parametrize("device", DEVICES)
def test_released_layer(case, device):
    """Block, scores in token order, gather and next block; the bugs of its selection are not ours.

    Its scores are of the reverse direction alone, so they are compared with that part of our scan.
    Exponents and step sizes are float32 here, and float64 there.
    """
    tensors = load_file(GOLDEN / "pruning" / "top_vim_layer.safetensors", device=device)
    golden = {
        k.partition("/")[2]: t for k, t in tensors.items() if k.startswith(case["name"] + "/")
    }
    block, following = (released_blocks(n, tensors, case).to(device) for n in ("block", "next"))
    close = {"rtol": 1e-5, "atol": 1e-5}
    with torch.no_grad():
        x = golden["hidden_in"].double() + golden["residual_in"].double()
        directions = gated_directions(block.mixer, block.norm(x))
        reverse = directions[:, 1]
        x, trace = run_block(block, x, None, "gap_power", traced=True)
        expected = golden["hidden_after_block"] + golden["residual_after_block"]
        torch.testing.assert_close(x, expected, **close)
        scanned = golden["xai_b"].flip(2).transpose(1, 2)
        torch.testing.assert_close(reverse, scanned, **close)
        scores = positive_sum(reverse) / scanned.shape[2]
        torch.testing.assert_close(scores, golden["score_clip_mean_forward_order"], **close)
        torch.testing.assert_close(trace.scanned, directions.sum(1), **close)
        x = take(x, golden["kept"])
        expected = golden["hidden_pruned"] + golden["residual_pruned"]
        torch.testing.assert_close(x, expected, **close)
        expected = golden["next_hidden"] + golden["next_residual"]
        torch.testing.assert_close(following(x), expected, **close)


def test_rates_stay_constants_when_many_models_are_compiled():
    """A float that differs from model to model would become an unknown, and the sizes with it."""
    torch.compiler.reset()
    for keep in (0.6, 0.7, 0.55):
        model = prune(small(depth=3), {0: keep, 1: keep})
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(images(model)), model(images(model)))


@pytest.mark.gpu
@pytest.mark.parametrize(("mode", "time"), WAYS)
def test_compiled_on_gpu_equals_cpu(mode, time):
    model = prune(small(), 0.6, mode=mode, time=time)
    x = images(model, batch=4)
    expected = model(x)
    model.cuda()
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        actual = compiled(x.cuda())
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-3, atol=1e-4)
