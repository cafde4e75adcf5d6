"""Strategies by name; their cached tables are right in every mode of PyTorch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from visionssm.scans import (
    Scan,
    bidirectional,
    cross_scan,
    get_scan,
    list_scans,
    raster,
    register_scan,
    registry,
    scan_routes,
    window,
)
from visionssm.scans.registry import CACHED_TABLES, _cached_routes, scan_options

README = Path(__file__).parents[2] / "README.md"
NAMES = list_scans()  # ours: tests and the README register others


@pytest.fixture(autouse=True)
def empty_cache():
    _cached_routes.cache_clear()


@pytest.fixture
def own_names(monkeypatch):
    """Registrations end with the test."""
    monkeypatch.setattr(registry, "_registered", registry._registered.copy())
    monkeypatch.setattr(registry, "_scans", registry._scans.copy())


def test_a_scan_of_ones_own(own_names):
    @register_scan(routes_per_slice=1)
    def halves(grid, device=None, *, repeat=2):
        return bidirectional(grid, device).repeat(repeat, 1)

    assert "halves" in list_scans()
    scan = get_scan("halves(repeat=3)")
    assert (scan.num_routes, scan.num_slices, scan.complete) == (6, 6, True)
    routes = scan_routes("halves(repeat=3)", 2, 2, torch.zeros(1))
    assert torch.equal(routes, bidirectional((2, 2)).repeat(3, 1))


def test_a_scan_without_a_name_in_the_registry():
    scan = Scan("mine", raster, num_routes=1)
    assert get_scan(scan) is scan
    assert torch.equal(scan_routes(scan, 2, 3, torch.zeros(1)), raster((2, 3)))


@pytest.mark.parametrize("function", [
    lambda grid, device=None: raster(grid)[0],
    lambda grid, device=None: bidirectional(grid),
    lambda grid, device=None: raster(grid).long(),
])  # fmt: skip
def test_a_function_that_returns_no_routes_is_named(function):
    with pytest.raises(ValueError, match=r"scan: 'mine' should return int32 routes \(1, s\), got"):
        scan_routes(Scan("mine", function, num_routes=1), 3, 3, torch.zeros(1))


def test_a_name_is_registered_once():
    def raster(grid, device=None):
        raise AssertionError

    with pytest.raises(ValueError, match="'raster' is registered already"):
        register_scan()(raster)


@pytest.mark.parametrize(("name", "message"), [
    ("zig", r"expected one of .*'cross_scan'.*, got 'zig'"),
    ("zig(step=2)", r"expected one of .*, got 'zig\(step=2\)'"),
    ("atrous(steps=2)", r"'atrous' takes the options \['step'\], got \['steps'\]"),
    ("raster(step=2)", r"'raster' takes the options \[\], got \['step'\]"),
    ("atrous(2)", "expected 'name' or"),
    ("atrous(step=n)", "expected 'name' or"),
    ("atrous(**{'step': 2})", "expected 'name' or"),
    ("atrous step", "expected 'name' or"),
    ("atrous(step={[]: 2})", "expected 'name' or"),
    ("", "expected 'name' or"),
    (None, "expected a name or a Scan, got None"),
    (["raster"], r"expected a name or a Scan, got \['raster'\]"),
])  # fmt: skip
def test_unknown_names_and_options_are_refused(name, message):
    with pytest.raises(ValueError, match="scan: " + message):
        get_scan(name)


def with_options(name: str) -> str:
    options = ", ".join(f"{key}={value!r}" for key, value in scan_options(name).items())
    return f"{name}({options})" if options else name


def test_the_readme_lists_every_scan_with_its_options_and_routes():
    section = README.read_text().split("## Scans")[1].split("\n## ")[0]
    listed = {}
    for names, routes in re.findall(r"^\| (`.*?) \| ([\d, ]+) \|", section, re.M):
        listed |= zip(re.findall("`(.*?)`", names), map(int, routes.split(",")), strict=True)
    assert listed == {with_options(name): get_scan(name).num_routes for name in NAMES}


def test_a_function_is_tried_when_it_is_registered(own_names):
    def halves(grid, device=None):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        register_scan()(halves)
    assert "halves" not in list_scans()


def test_channels_are_cut_evenly():
    with pytest.raises(ValueError, match="routes_per_slice: expected a divisor of 4, got 3"):
        Scan("mine", cross_scan, num_routes=4, routes_per_slice=3)
    with pytest.raises(ValueError, match="num_routes: expected at least 1, got 0"):
        Scan("mine", cross_scan, num_routes=0)


def test_a_padded_table_holds_no_permutations():
    scan = get_scan("window(size=4)")
    assert scan.permutes(window((4, 8), size=4), 32)
    assert not scan.permutes(window((4, 7), size=4), 28)
    assert not get_scan("atrous").permutes(get_scan("atrous").function((1, 1)), 1)


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
@pytest.mark.parametrize("name", NAMES)
def test_a_table_lies_on_the_device_of_its_reader(name):
    like = torch.zeros(1, device="cuda")
    routes = scan_routes(name, 5, 7, like)
    assert routes.device == like.device
    assert torch.equal(routes.cpu(), get_scan(name).function((5, 7)))


@pytest.mark.parametrize("name", [*NAMES, "strided(step=3)"])
def test_compiled_code_has_no_graph_break_and_follows_the_size(name):
    get_scan(name)  # resolves options, as layers do when they are built
    torch._dynamo.reset()  # all cases share the code that is compiled

    # The sizes come from the tensor, as in a model; two of them force a dynamic graph.
    def walk(x):
        routes = scan_routes(name, x.shape[0], x.shape[1], x)
        return x.flatten()[routes.long()]

    compiled = torch.compile(walk, fullgraph=True, backend="eager", dynamic=True)
    for shape in [(3, 4), (7, 5)]:
        x = torch.randn(shape)
        assert torch.equal(compiled(x), walk(x))
    assert _cached_routes.cache_info().currsize == 2  # by the eager calls alone


@pytest.mark.parametrize("name", NAMES)
def test_tables_have_their_shape_on_the_meta_device(name):
    function = get_scan(name).function
    assert function((5, 7), device="meta").shape == function((5, 7)).shape


def test_tracing_keeps_sizes_variable():
    def walk(x):
        return scan_routes("raster", x.shape[0], x.shape[1], x)

    traced = torch.jit.trace(walk, torch.randn(2, 3))
    assert traced(torch.randn(4, 5)).shape == (1, 20)
