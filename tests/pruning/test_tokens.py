"""Selecting, merging and the clock of removed tokens, against plain loops and golden numbers."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.fx.experimental.proxy_tensor import make_fx

from tests.models.golden import GOLDEN
from visionssm.pruning.importance import positive_sum
from visionssm.pruning.tokens import (
    carried_time,
    merge,
    position_gaps,
    select,
    shorten_routes,
    take,
)

ALIGNMENT = json.loads((GOLDEN / "pruning" / "alignment.json").read_text())["cases"]


@settings(max_examples=30, deadline=None)
@given(
    l=st.integers(2, 30), keep=st.integers(1, 29), protect=st.booleans(), seed=st.integers(0, 99)
)
def test_the_highest_scores_stay_in_order(l, keep, protect, seed):
    torch.manual_seed(seed)
    scores = torch.randint(5, (3, l)).float()  # with ties
    protected = torch.randint(l, (3, 1)) if protect else None
    keep = min(keep, l - protect)
    kept, dropped = select(scores, keep, protected)
    assert kept.shape == (3, keep + protect)
    for image in range(3):
        assert sorted([*kept[image].tolist(), *dropped[image].tolist()]) == list(range(l))
        assert kept[image].tolist() == sorted(kept[image].tolist())
        patches = set(kept[image].tolist())
        if protected is not None:
            assert protected[image].item() in patches
            patches.remove(protected[image].item())
        worst = min((scores[image, i].item() for i in patches), default=float("inf"))
        assert all(scores[image, i] <= worst for i in dropped[image].tolist())


def test_nan_is_the_lowest_score():
    scores = torch.tensor([[float("nan"), 1.0, float("nan"), -float("inf"), 3.0]])
    for protected, expected in ((None, [1, 4]), (torch.tensor([[2]]), [1, 2, 4])):
        kept, dropped = select(scores, 2, protected)
        assert kept.tolist() == [expected]
        assert sorted(expected + dropped[0].tolist()) == list(range(5))


def test_nothing_is_sorted():
    """The compiler makes kernels of short sorts that take ptxas many minutes, see `select`."""
    routes = torch.stack([torch.arange(20), torch.arange(20).flip(0)]).int()

    def remove(scores: torch.Tensor) -> torch.Tensor:
        kept, _ = select(scores, 5, None)
        return shorten_routes(routes, kept)[0]

    graph = make_fx(remove)(torch.randn(2, 20)).graph
    names = {str(node.target) for node in graph.nodes}
    assert "aten.topk.default" in names
    assert not any("sort" in name for name in names)


def test_dropped_tokens_join_the_most_similar_kept_one():
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    x = torch.stack([2 * east, 4 * north, 8 * east, -north + 1e-3 * east, north])[None]
    kept, dropped = torch.tensor([[0, 1]]), torch.tensor([[2, 4, 3]])
    merged, sizes = merge(x, torch.ones(1, 5, 1), kept, dropped, None)
    torch.testing.assert_close(sizes[..., 0], torch.tensor([[3.0, 2.0]]))
    expected = torch.stack([(10 * east - north + 1e-3 * east) / 3, 2.5 * north])
    torch.testing.assert_close(merged[0], expected)
    again, sizes = merge(merged, sizes, torch.tensor([[1]]), torch.tensor([[0]]), None)
    torch.testing.assert_close(again, x.mean(1, keepdim=True))  # weighted by what each stands for
    assert sizes.item() == 5


def test_nothing_joins_a_protected_token():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 4)
    x[:, 3] = x[:, 1]
    kept, dropped = torch.tensor([[0, 1, 2]] * 2), torch.tensor([[3, 4, 5]] * 2)
    merged, sizes = merge(x, torch.ones(2, 6, 1), kept, dropped, torch.tensor([[1], [1]]))
    assert torch.equal(merged[:, 1], x[:, 1])
    assert (sizes[:, 1] == 1).all()
    assert (sizes.sum(1) == 6).all()


@pytest.mark.parametrize("case", ALIGNMENT, ids=lambda case: case["name"])
def test_carried_time_is_the_golden_gap(case):
    tensors = load_file(GOLDEN / "pruning" / "alignment.safetensors")
    delta, bias, kept, gaps = (
        tensors[f"{case['name']}/{name}"] for name in ("delta", "delta_bias", "kept", "gap_dt_sum")
    )
    dt = F.softplus(delta.double() + bias.double()[:, None]).transpose(1, 2)
    backwards = torch.stack([dt, dt.flip(1)], dim=1)  # the same sequence from the other end
    mirrored = dt.shape[1] - 1 - kept.flip(1)
    for direction, index in ((0, kept), (1, mirrored)):
        found = carried_time(backwards, backwards, index)[:, direction].double()
        found = found + take(backwards[:, direction], index)
        found = found if direction == 0 else found.flip(1)
        torch.testing.assert_close(found.transpose(1, 2), gaps, rtol=1e-5, atol=1e-5)


def test_carried_time_adds_up_over_several_removals():
    torch.manual_seed(0)
    dt = torch.rand(2, 2, 12, 3)
    first, second = torch.tensor([[0, 2, 3, 5, 8, 9]] * 2), torch.tensor([[1, 3, 5]] * 2)
    clock = carried_time(dt, dt, first)
    still = torch.stack([take(d, first) for d in dt.unbind(1)], 1)
    twice = carried_time(still + clock, still, second)
    at_once = carried_time(dt, dt, first.gather(1, second))
    torch.testing.assert_close(twice, at_once)


def test_gaps_count_positions_in_each_direction():
    gaps = position_gaps(torch.tensor([[0, 3, 4, 9]]))
    assert gaps[0].tolist() == [[1, 3, 1, 5], [1, 5, 1, 3]]


def test_importance_example():
    """The paper's score of gated outputs that run backwards: (b, d, l), read from their end."""
    example = json.loads((GOLDEN / "pruning" / "importance_example.json").read_text())
    outputs = torch.tensor(example["xai_b"], dtype=torch.float64).flip(2).transpose(1, 2)
    scores = positive_sum(outputs)
    torch.testing.assert_close(
        scores, torch.tensor(example["score_paper_sum_forward_order"]).double()
    )
