"""Models in torch.compile, torch.export and autocast compute what they compute without."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.export import Dim

import visionssm  # noqa: F401  registers the models

from .small import SMALL

OPERATORS = {  # else the selective scan
    "ssm_efficientvim_m1": "visionssm.hsm_ssd.default",
    "vssd_tiny": "aten.einsum.default",
}


@pytest.fixture(params=SMALL)
def model(request):
    torch.manual_seed(0)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    return timm.create_model(request.param, num_classes=10, **SMALL[request.param]).eval()


def sizes(model, *base: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes at which no map has a side of 1, which a graph would be specialised to."""
    scale = 4 if model.feature_info[-1]["reduction"] == 64 else 1
    return [(scale * height, scale * width) for height, width in base]


def test_compiles_as_one_graph_with_gradients(model):
    x = torch.randn(2, 3, 32, 48)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected, actual = model(x), compiled(x)
    torch.testing.assert_close(actual, expected)
    parameters = list(model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(actual.square().sum(), parameters),
        torch.autograd.grad(expected.square().sum(), parameters),
    )


def test_one_compiled_graph_serves_many_sizes(model):
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=True)
    with torch.no_grad():
        for size in sizes(model, (32, 48), (40, 72), (35, 67)):
            x = torch.randn(2, 3, *size)
            torch.testing.assert_close(compiled(x), model(x))
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1


def test_exports(model):
    x = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        program = torch.export.export(model, (x,), strict=True)
        torch.testing.assert_close(program.module()(x), model(x))
    operators = {str(node.target) for node in program.graph.nodes}
    name = model.default_cfg["architecture"]
    assert OPERATORS.get(name, "visionssm.selective_scan.default") in operators


def test_exports_with_dynamic_sizes(model):
    """Traced by running it, which exporting does by default."""
    dynamic = {"x": {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}}
    first, second = sizes(model, (64, 48), (40, 71))
    with torch.no_grad():
        program = torch.export.export(model, (torch.randn(2, 3, *first),), dynamic_shapes=dynamic)
        x = torch.randn(3, 3, *second)
        torch.testing.assert_close(program.module()(x), model(x))


def test_autocast_stays_near_and_trains(model):
    x = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x)
    expected = model(x)
    # bfloat16 keeps 8 bits: a few roundings at each of some ten layers.
    torch.testing.assert_close(
        out.float(), expected, rtol=0, atol=0.05 * expected.abs().max().item()
    )
    out.float().square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == p.dtype for p in model.parameters())


def test_inference_first_then_training(model):
    """Nothing cached by an evaluation pass stands in the way of a training step."""
    x = torch.randn(2, 3, 36, 44)
    with torch.inference_mode():
        model(x)
    model(x).sum().backward()


def test_channels_last_images_give_the_same(model):
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    actual = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_the_whole_model_in_float64_equals_float32(model):
    """The scan stays in float32, so its rounding bounds the difference."""
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(
        model.double()(x.double()), model.float()(x).double(), rtol=1e-4, atol=1e-5
    )
