"""Schedules: what `keep` may be, counts, and the published ones."""

from __future__ import annotations

import json

import pytest

from tests.models.golden import GOLDEN
from visionssm.pruning import PUBLISHED_SCHEDULES, Schedule
from visionssm.pruning.schedule import resolve_schedule

PUBLISHED = json.loads((GOLDEN / "pruning" / "schedule.json").read_text())["schedules"]


@pytest.mark.parametrize("facts", PUBLISHED.values(), ids=list(PUBLISHED))
def test_published_schedules_keep_the_published_numbers_of_tokens(facts):
    layers = [layer for layer, _ in facts["tokens_after_layer"]]
    rates = dict.fromkeys((layer - 1 for layer in layers), facts["keep_ratio"])
    (schedule,) = [s for s in PUBLISHED_SCHEDULES.values() if s.keep == rates]
    tokens = [patches + 1 for patches in schedule.num_patches(196, 24)]
    assert [[layer, tokens[layer]] for layer in layers] == facts["tokens_after_layer"]
    assert sum(tokens) / 24 == pytest.approx(facts["mean_tokens_over_24_layers"])
    assert sum(tokens) / 24 / 197 == pytest.approx(facts["relative_layer_cost"])


def test_every_form_of_keep():
    blocks, default = range(7), (1, 3)
    forms = [0.5, {1: 0.5, 3: 0.5}, [1.0, 0.5, 1.0, 0.5], Schedule({3: 0.5, 1: 0.5})]
    assert all(resolve_schedule(keep, blocks, default).keep == {1: 0.5, 3: 0.5} for keep in forms)
    assert resolve_schedule("top_vim_5_10_15_keep80", range(23), ()).num_kept(4, 196) == 156
    assert resolve_schedule(1, blocks, default).keep == {}


@pytest.mark.parametrize(("rate", "patches", "kept"), [
    (0.55, 100, 55), (0.5, 7, 4), (0.01, 7, 1), (0.7, 10, 7), (1.0, 9, 9)
])  # fmt: skip
def test_rounding_up(rate, patches, kept):
    assert Schedule({0: rate}).num_kept(0, patches) == kept


def test_stored_schedules_come_back():
    schedule = PUBLISHED_SCHEDULES["top_vim_5_14_keep70"]
    assert Schedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule


@pytest.mark.parametrize(("keep", "message"), [
    (0.0, r"keep: expected rates in \(0, 1\], got 0.0 for block 1"),
    (1.5, "keep: expected rates"),
    ({1: "x"}, "keep: expected rates"),
    ({-1: 0.5}, "keep: expected blocks counted from 0, got -1"),
    ({7: 0.5}, r"keep: tokens can be removed after the blocks 0 to 6 of this model, got \[7\]"),
    ("top", "keep: expected one of"),
    (None, "keep: expected a rate"),
])  # fmt: skip
def test_bad_schedules_are_named(keep, message):
    with pytest.raises(ValueError, match=message):
        resolve_schedule(keep, range(7), (1, 3))


def test_bad_rounding_is_named():
    with pytest.raises(ValueError, match="rounding: expected one of"):
        Schedule({1: 0.5}, "even")
