"""Published figures: a row for every model with weights, the same number wherever it is printed."""

import pytest
import timm

from visionssm import list_models
from visionssm.analysis.published import FAMILIES, pretrained_cfg, published_accuracy

MODELS = list_models()
WEIGHTS = [name for name in timm.list_pretrained() if name.partition(".")[0] in MODELS]


@pytest.mark.parametrize("name", [*MODELS, *WEIGHTS])
def test_a_model_has_an_accuracy_if_and_only_if_it_has_weights(name):
    assert bool(pretrained_cfg(name).url) == (published_accuracy(name) is not None)


@pytest.mark.parametrize("name", [name for name in MODELS if published_accuracy(name)])
def test_the_entry_point_says_the_same(name):
    assert f"{published_accuracy(name)[0]:.1f} %" in timm.model_entrypoint(name).__doc__


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_every_row_is_about_a_registered_model(family):
    rows = (*family.classification, *family.detection, *family.segmentation)
    assert {row.model.partition(".")[0] for row in rows} <= set(MODELS)
    assert all(pretrained_cfg(row.model).url for row in rows)


def test_unknown_model():
    with pytest.raises(ValueError, match="no registered model is called 'resnet_9000'"):
        pretrained_cfg("resnet_9000")
