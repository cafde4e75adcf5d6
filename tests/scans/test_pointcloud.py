"""Orders of point clouds, against their definitions in plain Python."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from visionssm.scans import (
    POINT_ORDERS,
    hilbert,
    inverse,
    pointcloud,
    serialize_points,
    u_order,
    voxel_orders,
    z_order,
)

TRAVERSES = [order for order in POINT_ORDERS if len(order) == 3]
CURVES = {"z": z_order, "hilbert": hilbert}
GRID_SIZE = 0.25  # so that cells times it are exact


@st.composite
def batches(draw):
    """Cells (b, points, 3) with ties, and lengths of the clouds, some empty."""
    b, points = draw(st.integers(1, 4)), draw(st.integers(1, 30))
    side, seed = draw(st.integers(1, 9)), draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(side, (b, points, 3), generator=generator)
    return cells, torch.randint(points + 1, (b,), generator=generator)


def inside(cells: Tensor) -> Tensor:
    """Points somewhere in these cells, far from the origin."""
    generator = torch.Generator().manual_seed(0)
    within = torch.rand(cells.shape, generator=generator).clamp(max=0.99)
    return (cells - 100 + within) * GRID_SIZE


def walk(cells: list[list[int]], order: str) -> list[int]:
    """Points of one cloud by the definition of the order."""
    low = [min(axis) for axis in zip(*cells, strict=True)]
    cells = [[c - m for c, m in zip(cell, low, strict=True)] for cell in cells]
    if order in TRAVERSES:
        first, second, third = map("xyz".index, order)

        def place(cell):
            slice_sign = 1 if cell[third] % 2 == 0 else -1
            line_sign = slice_sign if cell[second] % 2 == 0 else -slice_sign
            return cell[third], slice_sign * cell[second], line_sign * cell[first]
    else:
        curve, _, transposed = order.partition("-")
        side = 1 << max(1, max(map(max, cells)).bit_length())
        ranks = inverse(CURVES[curve]((side,) * 3)[1 if transposed else 0])

        def place(cell):
            return int(ranks[(cell[0] * side + cell[1]) * side + cell[2]])

    return sorted(range(len(cells)), key=lambda point: place(cells[point]))


@given(batch=batches(), order=st.sampled_from(POINT_ORDERS))
def test_each_cloud_is_walked_as_defined(batch, order):
    cells, lengths = batch
    (routes,) = serialize_points(inside(cells), order, GRID_SIZE, lengths).unbind(1)
    for cloud, length, route in zip(cells.tolist(), lengths.tolist(), routes.tolist(), strict=True):
        expected = walk(cloud[:length], order) if length else []
        assert route == expected + [-1] * (len(cloud) - length)


@given(batch=batches(), seed=st.integers(0, 2**31))
def test_inverse_restores_every_cloud(batch, seed):
    cells, lengths = batch
    points = inside(cells)
    routes = serialize_points(points, POINT_ORDERS, GRID_SIZE, lengths)
    assert routes.dtype == torch.int32
    assert routes.shape == (len(cells), len(POINT_ORDERS), cells.shape[1])
    steps = inverse(routes)
    x = torch.randn(routes.shape, generator=torch.Generator().manual_seed(seed))
    walked = x.gather(2, routes.long().clamp(min=0))
    valid = (torch.arange(cells.shape[1]) < lengths[:, None])[:, None].expand_as(x)
    assert torch.equal(steps >= 0, valid)
    assert torch.equal(walked.gather(2, steps.long().clamp(min=0))[valid], x[valid])


@given(batch=batches(), shift=st.tuples(*[st.integers(-50, 50)] * 3))
def test_a_cloud_has_its_routes_wherever_it_lies_and_whoever_is_beside(batch, shift):
    cells, lengths = batch
    routes = serialize_points(inside(cells), POINT_ORDERS, GRID_SIZE, lengths)
    for cloud, length, expected in zip(cells, lengths.tolist(), routes, strict=True):
        if length:
            alone = inside(cloud[None, :length] + torch.tensor(shift))
            (found,) = serialize_points(alone, POINT_ORDERS, GRID_SIZE)
            assert torch.equal(found, expected[:, :length])


def full_grid(*sizes: int) -> Tensor:
    return torch.cartesian_prod(*map(torch.arange, sizes))


@pytest.mark.parametrize(("order", "sizes"), [
    *itertools.product(TRAVERSES, [(4, 3, 5), (3, 4, 2), (1, 6, 3)]),
    ("hilbert", (8, 8, 8)),
    ("hilbert-trans", (4, 4, 4)),
])  # fmt: skip
def test_steps_go_to_neighbouring_cells(order, sizes):
    cells = full_grid(*sizes)
    (route,) = serialize_points(inside(cells[None]), order, GRID_SIZE)[0]
    assert (cells[route].diff(dim=0).abs().sum(1) == 1).all()


@pytest.mark.parametrize("order", POINT_ORDERS)
@pytest.mark.parametrize("cells", [
    torch.tensor([[5, 6, 7]]),  # a point
    torch.tensor([[5, 6, 7]]).repeat(7, 1),  # duplicates
    torch.tensor([[0, 3, 0], [0, 0, 0], [0, 1, 0], [0, 2, 0]]),  # a line
    full_grid(5, 1, 4).flip(0),  # a plane
])  # fmt: skip
def test_degenerate_clouds(cells, order):
    for compat in (None, "released"):
        pair = inside(torch.stack([cells, cells]))
        routes = serialize_points(pair, order, GRID_SIZE, compat=compat)
        assert torch.equal(routes.sort().values[:, 0], torch.arange(len(cells)).int().expand(2, -1))
    (route,) = serialize_points(inside(cells[None]), order, GRID_SIZE)[0]
    assert route.tolist() == walk(cells.tolist(), order)


@pytest.mark.parametrize("order", POINT_ORDERS)
def test_clouds_of_sixteen_bits_an_axis(order):
    ends = torch.tensor(list(itertools.product([0, 1, 2**16 - 2, 2**16 - 1], repeat=3)))
    (route,) = serialize_points(ends[None].double(), order, 1.0)[0]
    assert route.sort().values.tolist() == list(range(len(ends)))
    if order in TRAVERSES:
        assert route.tolist() == walk(ends.tolist(), order)
    with pytest.raises(ValueError, match="expected at most 65536 cells"):
        serialize_points(2.0 * ends[None], order, 1.0)


@given(batch=batches(), order=st.sampled_from(TRAVERSES))
def test_the_released_snake_sorts_by_one_axis_in_the_direction_of_the_batch(batch, order):
    cells, _ = batch
    axes = ["xyz".index(axis) for axis in order]
    local = (cells - cells.amin(1, keepdim=True))[..., axes]
    sign = (-1) ** int(local[..., 1].max() + local[..., 2].max())
    expected = (sign * local[..., 0]).argsort(dim=1, stable=True)
    (routes,) = serialize_points(inside(cells), order, GRID_SIZE, compat="released").unbind(1)
    assert torch.equal(routes.long(), expected)


def test_the_released_hilbert_curve_has_the_depth_of_the_largest_cloud():
    small = full_grid(2, 2, 2)
    large = 4 * small  # twice deeper: the curve turns in small cells
    both = serialize_points(inside(torch.stack([small, large])), "hilbert", GRID_SIZE)
    released = serialize_points(
        inside(torch.stack([small, large])), "hilbert", GRID_SIZE, compat="released"
    )
    cube = hilbert((8, 8, 8))[0]
    tokens = (small * torch.tensor([64, 8, 1])).sum(1)
    assert released[0, 0].tolist() == inverse(cube)[tokens].argsort().tolist()
    assert both[0, 0].tolist() == hilbert((2, 2, 2))[0].tolist() != released[0, 0].tolist()
    assert torch.equal(both[1], released[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_of_the_coordinates(dtype):
    points = torch.randint(-20, 20, (2, 50, 3)).to(dtype) / 4
    routes = serialize_points(points, POINT_ORDERS, GRID_SIZE)
    assert torch.equal(routes, serialize_points(points.float(), POINT_ORDERS, GRID_SIZE))


def test_compiled_code_has_no_graph_break():
    points, lengths = torch.randn(2, 40, 3), torch.tensor([40, 7])

    def routes(points):
        return serialize_points(points, POINT_ORDERS, GRID_SIZE, lengths)

    torch._dynamo.reset()
    compiled = torch.compile(routes, fullgraph=True, backend="eager")
    assert torch.equal(compiled(points), routes(points))


@pytest.mark.parametrize(("order", "most"), [("xyz", 50), ("z", 50), ("hilbert", 120)])
def test_operations_are_few(order, most, monkeypatch):
    """Each is a launch on a GPU, where values are not read."""
    monkeypatch.setattr(pointcloud, "_values_can_be_read", lambda tensor: False)
    points = torch.rand(2, 10, 3)
    serialize_points(points, order, GRID_SIZE)  # tables are made once
    with torch.profiler.profile(acc_events=True) as profiler:
        serialize_points(points, order, GRID_SIZE)
    views = ("view", "unsqueeze", "expand", "slice", "select", "unbind", "detach", "as_strided")
    outermost = [event for event in profiler.events() if event.cpu_parent is None]
    names = [event.name.removeprefix("aten::") for event in outermost]
    assert 20 < len([name for name in names if name not in views]) < most


POINTS = torch.zeros(2, 4, 3)


@pytest.mark.parametrize(("change", "message"), [
    ({"coordinates": POINTS[0]}, "coordinates: expected (b, points, 3), at least one point"),
    ({"coordinates": POINTS[:, :0]}, "coordinates: expected (b, points, 3), at least one point"),
    ({"coordinates": POINTS[:0]}, "coordinates: expected (b, points, 3), at least one point"),
    ({"coordinates": POINTS[..., :2]}, "coordinates: expected (b, points, 3)"),
    ({"coordinates": POINTS.long()}, "coordinates: expected a real floating dtype"),
    ({"orders": "xyy"}, "orders: expected some of ('xyz', 'xzy', 'yxz', 'yzx', 'zxy', 'zyx', 'z', "
     "'z-trans', 'hilbert', 'hilbert-trans'), got ['xyy']"),
    ({"orders": ["xyz", "x"]}, "got ['x']"),
    ({"orders": []}, "orders: expected some of"),
    ({"grid_size": 0.0}, "grid_size: expected a positive number, got 0.0"),
    ({"grid_size": math.nan}, "grid_size: expected a positive number, got nan"),
    ({"grid_size": math.inf}, "grid_size: expected a positive number, got inf"),
    ({"lengths": torch.tensor([4])}, "lengths: expected int32 or int64 of shape (2,)"),
    ({"lengths": torch.tensor([4.0, 4])}, "lengths: expected int32 or int64 of shape (2,)"),
    ({"lengths": torch.tensor([4, 5])}, "lengths: expected 0 to 4, got [4, 5]"),
    ({"lengths": torch.tensor([-1, 4])}, "lengths: expected 0 to 4, got [-1, 4]"),
    ({"lengths": torch.zeros(2, dtype=torch.int32, device="meta")}, "lengths: expected device cpu"),
    ({"compat": "paper"}, "compat: expected None or 'released', got 'paper'"),
])  # fmt: skip
def test_impossible_arguments_are_refused(change, message):
    arguments = {"coordinates": POINTS, "orders": "xyz", "grid_size": 1.0} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        serialize_points(**arguments)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_points_that_are_not_finite_are_refused_unless_they_are_padding(value):
    points = POINTS.clone()
    points[1, 3, 2] = value
    with pytest.raises(ValueError, match=r"expected finite .* at point 3 of cloud 1"):
        serialize_points(points, "xyz", 0.02)
    routes = serialize_points(points, "xyz", 0.02, torch.tensor([4, 3]))
    assert routes[:, 0].tolist() == [[0, 1, 2, 3], [0, 1, 2, -1]]


@pytest.mark.gpu
def test_a_gpu_gives_the_same_routes_and_is_not_waited_for():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(3, 5000, 3, generator=generator)
    lengths = torch.tensor([5000, 0, 4321])
    on_gpu = points.cuda(), lengths.cuda()
    for compat in (None, "released"):
        expected = serialize_points(points, POINT_ORDERS, 0.02, lengths, compat=compat)
        serialize_points(points.cuda(), POINT_ORDERS, 0.02, compat=compat)  # tables are made once
        torch.cuda.set_sync_debug_mode("error")
        try:
            routes = serialize_points(on_gpu[0], POINT_ORDERS, 0.02, on_gpu[1], compat=compat)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.equal(routes.cpu(), expected)


@pytest.mark.gpu
def test_points_that_are_not_finite_are_padding_on_a_gpu():
    points = torch.rand(2, 50, 3)
    expected = serialize_points(points[:, :48], POINT_ORDERS, 0.02)
    points[:, 48, 0], points[:, 49, 2] = math.nan, math.inf
    routes = serialize_points(points.cuda(), POINT_ORDERS, 0.02).cpu()
    assert torch.equal(routes[..., :48], expected)
    assert (routes[..., 48:] == -1).all()


@pytest.mark.parametrize("side", [2, 4, 8])
def test_columns_of_voxels_follow_a_plane_of_neighbours(side):
    height = 3
    for route in voxel_orders((side, side, height)):
        columns, z = route.view(-1, height) // height, route.view(-1, height) % height
        assert (z == torch.arange(height)).all()
        assert (columns == columns[:, :1]).all()
        x, y = columns[:, 0] // side, columns[:, 0] % side
        assert (torch.stack([x, y]).diff().abs().sum(0) == 1).all()


@given(grid=st.tuples(*[st.integers(1, 12)] * 3), compat=st.sampled_from([None, "released"]))
def test_voxel_orders_visit_every_voxel(grid, compat):
    routes = voxel_orders(grid, compat=compat)
    assert torch.equal(routes.sort().values, torch.arange(math.prod(grid)).int().expand(4, -1))
    x, y, z = grid
    plane = (hilbert if compat is None else u_order)((x, y))
    assert torch.equal(routes[:2, ::z] // z, plane[:2])
    assert torch.equal(routes[2:, ::z] // z, x * y - 1 - plane[:2])


def test_impossible_voxel_grids_are_refused():
    with pytest.raises(ValueError, match=r"grid: expected \(x, y, z\), all at least 1"):
        voxel_orders((4, 4))
    with pytest.raises(ValueError, match=r"grid: expected \(x, y, z\), all at least 1"):
        voxel_orders((4, 0, 4))
    with pytest.raises(ValueError, match="compat: expected None or 'released', got 'u'"):
        voxel_orders((4, 4, 4), compat="u")
