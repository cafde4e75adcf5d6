"""PointScan: a bidirectional scan of the points in their order, and what it can learn by it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.golden import DEVICES
from visionssm.layers import PointScan
from visionssm.scans import POINT_ORDERS, serialize_points

DIM, GRID_SIZE = 12, 0.1


def build(order: str = "xyz", **options) -> PointScan:
    torch.manual_seed(0)
    return PointScan(DIM, order, d_state=3, **options).double()


def cloud(b: int, points: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(b, points, DIM, generator=generator, dtype=torch.float64)
    return x, torch.rand(b, points, 3, generator=generator, dtype=torch.float64)


def routes(layer: PointScan, coordinates: Tensor, lengths: Tensor | None = None) -> Tensor:
    return serialize_points(coordinates, layer.order, GRID_SIZE, lengths)[:, 0]


@pytest.mark.parametrize("order", ["xyz", "hilbert-trans"])
@pytest.mark.parametrize("num_prompts", [0, 1, 6])
def test_it_is_a_scan_of_the_sorted_points_between_prompts(order, num_prompts):
    layer = build(order, num_prompts=num_prompts)
    x, coordinates = cloud(2, 17)
    route = routes(layer, coordinates)
    y = layer(x, coordinates, route)
    x = x + layer.position(coordinates)
    prompts = layer.prompts[order]
    for i in range(2):
        line = torch.cat([prompts, x[i, route[i]], prompts])
        expected = layer.mixer(line[None])[0, num_prompts : num_prompts + 17]
        torch.testing.assert_close(y[i, route[i]], expected)


@pytest.mark.parametrize("device", DEVICES)
def test_padding_changes_nothing(device):
    dtype = torch.float64 if device == "cpu" else torch.float32  # which Triton reads
    layer = build().to(device, dtype)
    x, coordinates = (tensor.to(device, dtype) for tensor in cloud(3, 9))
    lengths = torch.tensor([9, 4, 0], device=device)
    x.requires_grad_()
    y = layer(x, coordinates, routes(layer, coordinates, lengths))
    for i, length in enumerate(lengths.tolist()):
        assert (y[i, length:] == 0).all()
        if length:
            alone = coordinates[i : i + 1, :length]
            expected = layer(x[i : i + 1, :length], alone, routes(layer, alone))
            torch.testing.assert_close(y[i, :length], expected[0])
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert (gradient[1, 4:] == 0).all()
    assert (gradient[1, :4] != 0).all()


def test_points_may_come_in_any_order():
    layer = build("z")
    x, coordinates = cloud(2, 13)
    coordinates *= 100  # no two of them in one cell
    shuffle = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    y = layer(x, coordinates, routes(layer, coordinates))
    shuffled = coordinates[:, shuffle]
    found = layer(x[:, shuffle], shuffled, routes(layer, shuffled))
    torch.testing.assert_close(found, y[:, shuffle])


def test_prompts_are_bound_to_their_order():
    weights = build("hilbert").state_dict()
    build("hilbert").load_state_dict(weights)
    with pytest.raises(RuntimeError, match=r'(?s)Missing .*"prompts\.z".*"prompts\.hilbert"'):
        build("z").load_state_dict(weights)


def test_every_parameter_has_a_gradient():
    layer = build()
    x, coordinates = cloud(2, 8)
    layer(x, coordinates, routes(layer, coordinates)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert (parameter.grad != 0).any(), name


def test_it_compiles_without_graph_breaks():
    layer = build().float()
    x, coordinates = (tensor.float() for tensor in cloud(2, 10))
    route = routes(layer, coordinates, torch.tensor([10, 6]))
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, coordinates, route), layer(x, coordinates, route))


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match=r"order: expected one of \('xyz', .*\), got 'xy'"):
        PointScan(DIM, "xy")
    with pytest.raises(ValueError, match="num_prompts: expected at least 0, got -1"):
        PointScan(DIM, "xyz", num_prompts=-1)
    layer, (x, coordinates) = build(), cloud(2, 8)
    route = routes(layer, coordinates)
    with pytest.raises(ValueError, match=r"coordinates: expected \(2, 8, 3\), got \(2, 8, 2\)"):
        layer(x, coordinates[..., :2], route)
    with pytest.raises(ValueError, match=r"route: expected \(2, 8\), got \(2, 1, 8\)"):
        layer(x, coordinates, route[:, None])


class PointClassifier(nn.Module):
    """Points (b, points, 3) of clouds of these lengths to logits; `orders` makes it scan."""

    def __init__(self, orders: tuple[str, ...], mlps: int = 0, dim: int = 16, num_classes: int = 4):
        super().__init__()
        self.embed = nn.Linear(3, dim)
        self.scans = nn.ModuleList(PointScan(dim, order, d_state=2) for order in orders)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))
            for _ in range(mlps)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, coordinates: Tensor, lengths: Tensor) -> Tensor:
        x = self.embed(coordinates)
        if self.scans:
            orders = [scan.order for scan in self.scans]
            tables = serialize_points(coordinates, orders, GRID_SIZE, lengths).unbind(1)
            for scan, route in zip(self.scans, tables, strict=True):
                x = x + scan(F.layer_norm(x, x.shape[-1:]), coordinates, route)
        for mlp in self.mlps:
            x = x + mlp(F.layer_norm(x, x.shape[-1:]))
        valid = torch.arange(x.shape[1]) < lengths[:, None]
        x = self.norm(x).where(valid[..., None], 0).sum(1) / lengths[:, None]
        return self.head(x)


def helices(clouds: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Points of helices with two or one turns, left or right, at any phase; lengths; classes.

    No point tells the class, nor does the mean of any function of one point: averaged over the
    phase, all four classes are the same cylinder.
    """
    labels = torch.randint(4, (clouds,), generator=generator)
    lengths = torch.randint(24, 33, (clouds,), generator=generator)
    height = torch.rand(clouds, 32, generator=generator)
    phase = torch.rand(clouds, 1, generator=generator)
    turns = torch.tensor([-2, -1, 1, 2])[labels][:, None]
    angle = 2 * math.pi * (turns * height + phase)
    points = torch.stack([angle.cos(), angle.sin(), 2 * height], dim=-1)
    return points + torch.randn(points.shape, generator=generator) / 20, lengths, labels


def accuracy_after_training(model: nn.Module, steps: int) -> float:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        *clouds, labels = helices(32, generator)
        loss = F.cross_entropy(model(*clouds), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    *clouds, labels = helices(512, generator)
    with torch.no_grad():
        return float((model(*clouds).argmax(1) == labels).float().mean())


def test_it_learns_what_only_the_order_of_points_tells():
    torch.manual_seed(0)
    assert accuracy_after_training(PointClassifier(("xyz", "hilbert")), steps=90) > 0.9
    torch.manual_seed(0)
    # Chance is a quarter; 512 clouds leave a standard deviation of 0.02.
    assert accuracy_after_training(PointClassifier((), mlps=2), steps=90) < 0.35


def test_orders_are_those_of_the_serialization():
    for order in POINT_ORDERS:
        assert f"prompts.{order}" in build(order).state_dict()
