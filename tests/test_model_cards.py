"""The generated tables of README.md and model_cards/ are up to date, and there is one a family."""

import importlib.util
from pathlib import Path

import pytest

from visionssm.analysis.published import FAMILIES

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("cards", ROOT / "tools/make_model_cards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_up_to_date(tool):
    stale = [
        path.name for path in tool.DOCUMENTS if tool.filled(path.read_text()) != path.read_text()
    ]
    assert not stale, "run python tools/make_model_cards.py"


def test_a_changed_figure_is_seen(tool):
    card = (ROOT / "model_cards/vmamba.md").read_text()
    assert tool.filled(card.replace("82.6", "92.6")) == card


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_card(family):
    card = (ROOT / f"model_cards/{family}.md").read_text()
    assert f"<!-- table: classification {family} -->" in card
    assert FAMILIES[family].source in card
    assert "## Limits" in card
    assert "## Citation" in card
