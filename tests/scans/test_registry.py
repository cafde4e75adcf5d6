"""The cached accessor: one table for each grid and device, right in every mode of PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from visionssm.scans import cross_scan, scan_routes
from visionssm.scans.registry import CACHED_TABLES, _cached_routes


@pytest.fixture(autouse=True)
def empty_cache():
    _cached_routes.cache_clear()


def test_eager_calls_share_one_table():
    like = torch.zeros(1)
    routes = scan_routes("cross_scan", 5, 7, like)
    assert routes is scan_routes("cross_scan", 5, 7, like)
    assert torch.equal(routes, cross_scan((5, 7)))


def test_the_cache_is_bounded():
    for width in range(1, 2 * CACHED_TABLES):
        scan_routes("raster", 1, width, torch.zeros(1))
    assert _cached_routes.cache_info().currsize == CACHED_TABLES


def test_a_table_first_used_in_inference_mode_serves_training():
    with torch.inference_mode():
        scan_routes("raster", 2, 2, torch.zeros(1))
    assert not scan_routes("raster", 2, 2, torch.zeros(1)).is_inference()


def test_fake_tensors_stay_out_of_the_cache():
    with FakeTensorMode():
        assert isinstance(scan_routes("raster", 3, 3, torch.zeros(1)), FakeTensor)
    assert _cached_routes.cache_info().currsize == 0
    assert type(scan_routes("raster", 3, 3, torch.zeros(1))) is torch.Tensor


def test_devices_have_their_own_tables():
    scan_routes("raster", 2, 3, torch.zeros(1))
    assert scan_routes("raster", 2, 3, torch.zeros(1, device="meta")).device.type == "meta"


@pytest.mark.gpu
def test_a_table_lies_on_the_device_of_its_reader():
    like = torch.zeros(1, device="cuda")
    routes = scan_routes("cross_scan", 5, 7, like)
    assert routes.device == like.device
    assert torch.equal(routes.cpu(), cross_scan((5, 7)))


def test_compiled_code_has_no_graph_break_and_follows_the_size():
    # The sizes come from the tensor, as in a model; two of them force a dynamic graph.
    def walk(x):
        routes = scan_routes("cross_scan", x.shape[0], x.shape[1], x)
        return x.flatten()[routes.long()]

    compiled = torch.compile(walk, fullgraph=True, backend="eager", dynamic=True)
    for shape in [(3, 4), (5, 2)]:
        x = torch.randn(shape)
        assert torch.equal(compiled(x), walk(x))
    assert _cached_routes.cache_info().currsize == 2  # by the eager calls alone


def test_tracing_keeps_sizes_variable():
    def walk(x):
        return scan_routes("raster", x.shape[0], x.shape[1], x)

    traced = torch.jit.trace(walk, torch.randn(2, 3))
    assert traced(torch.randn(4, 5)).shape == (1, 20)
