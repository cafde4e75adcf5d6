"""Orders equal to those that the official implementations walk."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.models.golden import GOLDEN
from visionssm.scans import (
    bitemporal,
    get_scan,
    hilbert,
    hilbert_code,
    multi_head,
    serialize_points,
    voxel_orders,
    z_order,
    z_order_code,
)

ORDERS = GOLDEN / "scan_orders"


def golden(name: str) -> dict:
    return json.loads((ORDERS / f"{name}.json").read_text())


def grids(name: str) -> dict:
    return golden(name)["grids"]


def sizes(text: str) -> tuple[int, ...]:
    """`4x6` to (4, 6)."""
    return tuple(int(size) for size in text.split("x"))


@pytest.mark.parametrize("grid", grids("mhs_vm"))
def test_heads_of_mhs_vm(grid):
    routes = multi_head(sizes(grid)).unflatten(0, (4, 2, 2))
    for head, letter in zip(routes, "CXSZ", strict=True):
        for number in (0, 1):
            forward, backward = head[number].tolist()
            assert forward == grids("mhs_vm")[grid][f"{letter}{number}"]["order"]
            assert backward == forward[::-1]


@pytest.mark.parametrize("grid", grids("efficientvmamba"))
def test_atrous_scan_of_efficientvmamba(grid):
    routes = get_scan("atrous").function(sizes(grid))
    assert routes.tolist() == grids("efficientvmamba")[grid]["sequences"]


@pytest.mark.parametrize("case", grids("asp_vmunet_atrous"))
def test_atrous_scans_of_asp_vmunet(case):
    grid, step = case.split("_s")
    expected = grids("asp_vmunet_atrous")[case]
    routes = get_scan(f"atrous_rows(step={step})").function(sizes(grid))
    assert routes.tolist() == expected["sequences"]
    routes = get_scan(f"strided(step={step})").function(sizes(grid))
    assert routes.tolist() == expected["atrous1d"]


@pytest.mark.parametrize(("curve", "function"), [("hilbert", hilbert), ("zorder", z_order)])
def test_curves_of_point_cloud_mamba(curve, function):
    for case, expected in golden("hilbert")[curve].items():
        axes, side = case.split("d_")
        grid = (int(side.split("x")[0]),) * int(axes)
        assert function(grid)[0].tolist() == expected["order"], case


@pytest.mark.parametrize("cloud", golden("pcm")["clouds"])
@pytest.mark.parametrize("order", ["z", "z-trans", "hilbert", "hilbert-trans"])
def test_codes_of_point_cloud_mamba(cloud, order):
    tensors = load_file(ORDERS / "pcm.safetensors")
    bits = golden("pcm")["clouds"][cloud]["orders"][order]["depth_bits"]
    cells = tensors[f"{cloud}/grid_coord"]
    code = hilbert_code if order.startswith("hilbert") else z_order_code
    codes = code(cells[..., [1, 0, 2]] if order.endswith("trans") else cells, bits)
    # The official codes carry the number of the cloud above their bits.
    cloud_number = torch.arange(len(cells))[:, None] << 3 * bits
    assert torch.equal(codes | cloud_number, tensors[f"{cloud}/code_{order}"])


@pytest.mark.parametrize("cloud", golden("pcm")["clouds"])
def test_orders_of_point_cloud_mamba(cloud):
    """The exact snake; as released, a stable sort by the official codes, which break no ties."""
    tensors, facts = load_file(ORDERS / "pcm.safetensors"), golden("pcm")["clouds"][cloud]
    points, grid_size = tensors[f"{cloud}/points"], facts["grid_size"]
    for order, expected in facts["orders"].items():
        (released,) = serialize_points(points, order, grid_size, compat="released").unbind(1)
        codes = tensors[f"{cloud}/code_{order}"]
        assert torch.equal(released.long(), codes.argsort(dim=1, stable=True)), order
        if "exact_snake_order" in expected:
            routes = serialize_points(points, order, grid_size)
            assert routes[:, 0].tolist() == expected["exact_snake_order"], order


@pytest.mark.parametrize("case", grids("occmamba"))
def test_voxel_orders_of_occmamba(case):
    grid, order = case.split("_", 1)
    routes = voxel_orders(sizes(grid), compat="released")
    route = routes[["xy", "yx", "xy_inv", "yx_inv"].index(order)]
    assert route.tolist() == grids("occmamba")[case]["order"]


@pytest.mark.parametrize("grid", grids("changemamba"))
@pytest.mark.parametrize("layout", ["interleave", "split"])
def test_bitemporal_layouts_of_changemamba(grid, layout):
    height, width = sizes(grid)
    tokens = bitemporal((height, width), layout)[0].tolist()
    frames = [list(divmod(token, height * width)) for token in tokens]
    assert frames == grids("changemamba")[grid][layout]
