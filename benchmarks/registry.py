"""Everything that is measured, and the goal of every row: times in ms, throughputs in images/s.

Goals are for one NVIDIA H200 in bfloat16, but for the CPU suite, whose goal is a peer in the same
run, and that of scans, whose goal is a ratio of times. A row is added here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from visionssm.scans import POINT_ORDERS, get_scan, list_scans

EAGER, COMPILE = "eager", "compile"
BOTH = (EAGER, COMPILE)
MEMORY_BUDGET = 0.4  # PyTorch's: of the activations that a compiled training step keeps by default
COMPACT = f"compile, memory budget {MEMORY_BUDGET}"  # training alone
GRAPHS = "compile, CUDA graphs"  # PyTorch's mode "reduce-overhead"


@dataclass(frozen=True)
class ScanCase:
    """One shape of `selective_scan`; all routes visit every token and read the same u."""

    label: str
    batch: int
    routes: int
    channels: int
    tokens: int
    states: int
    goals: Mapping[str, float] = field(default_factory=dict)  # "fwd", "bwd": ms
    dtype: torch.dtype = torch.bfloat16


@dataclass(frozen=True)
class SSDCase:
    """One shape of `ssd`, or of `ssd_noncausal`."""

    label: str
    causal: bool
    batch: int
    tokens: int
    heads: int
    head_dim: int
    groups: int
    states: int
    goals: Mapping[str, float] = field(default_factory=dict)  # "fwd", "fwd+bwd": ms
    modes: tuple[str, ...] = BOTH
    dtype: torch.dtype = torch.bfloat16


@dataclass(frozen=True)
class BlockCase:
    """One block over a square map."""

    label: str
    dim: int
    side: int
    batch: int
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # of the mixer
    goals: Mapping[str, float] = field(default_factory=dict)  # "fwd", "fwd+bwd": ms
    mixer: str = "SS2D"  # a class of visionssm.layers
    modes: tuple[str, ...] = BOTH
    dtype: torch.dtype = torch.bfloat16
    contender: str = ""  # the name of the mixer's rows, if not its class
    relative_to: str | None = None  # see `Task`; the goals are quotients then


@dataclass(frozen=True)
class ModelCase:
    """One model of timm's registry at one input size and batch."""

    label: str
    model: str
    batch: int = 128
    size: int = 224
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # of timm.create_model
    goals: Mapping[str, float] = field(default_factory=dict)  # "inference", "training": images/s
    as_fast_as: str | None = None  # a peer whose images/s in the same run is the goal
    training: bool = True
    modes: tuple[str, ...] = BOTH  # or with COMPACT, which recomputes cheap activations
    dtype: torch.dtype = torch.bfloat16


@dataclass(frozen=True)
class DenseCase:
    """A detector or segmentor of one of our configs, with the config's backbone or another."""

    label: str
    config: str
    model: str  # the config's backbone, `SWIN` of timm or `MMDET_SWIN`
    batch: int
    size: tuple[int, int]  # height and width
    as_fast_as: str | None = None  # a peer whose images/s in the same case is the goal
    modes: tuple[str, ...] = (EAGER, GRAPHS)  # of the backbone
    dtype: torch.dtype = torch.bfloat16


@dataclass(frozen=True)
class SerializationCase:
    """One shape of `serialize_points`: clouds uniform in a cube of edge 1."""

    label: str
    clouds: int
    points: int
    orders: tuple[str, ...]
    grid_size: float = 0.001
    goals: Mapping[str, float] = field(default_factory=dict)  # "fwd": ms
    dtype: torch.dtype = torch.float32


RASTER_ORDER = "raster order"


@dataclass(frozen=True)
class RouteCase:
    """Scans of a square map whose route tables have one shape, and are timed against each other.

    Alone, and in the mixer that takes them.
    """

    label: str
    batch: int
    side: int
    channels: int  # of a route
    routes: int
    steps: int
    covers: bool  # each route visits all tokens; otherwise they share them
    scans: tuple[str, ...]
    # "fwd", "bwd", and of the mixer "fwd", "fwd+bwd": times raster order
    goals: Mapping[str, float] = field(default_factory=dict)
    dtype: torch.dtype = torch.bfloat16


Case = ScanCase | SSDCase | BlockCase | ModelCase | DenseCase | SerializationCase | RouteCase


def _scan(b: int, k: int, d: int, l: int, n: int, fwd: float, bwd: float, note: str) -> ScanCase:
    label = f"{b}, {k}, {d}, {l}, {n}" + (f" ({note})" if note else "")
    return ScanCase(label, b, k, d, l, n, {"fwd": fwd, "bwd": bwd})


def _scan_on_cpu(b: int, k: int, d: int, l: int, n: int, note: str) -> ScanCase:
    label = f"scan {b}, {k}, {d}, {l}, {n} ({note})"
    return ScanCase(label, b, k, d, l, n, dtype=torch.float32)


def _ssd(op: str, b: int, l: int, h: int, p: int, n: int, note: str, **goals: float) -> SSDCase:
    """The name of a goal is "fwd" or "fwd_bwd"."""
    label = f"{op} {b}, {l}, {h}, {p}, {n} ({note})"
    goals = {name.replace("_", "+"): goal for name, goal in goals.items()}
    return SSDCase(label, op == "ssd", b, l, h, p, 1, n, goals)


def _serialization(*orders: str) -> SerializationCase:
    what = orders[0] if len(orders) == 1 else f"{len(orders)} orders"
    goals = {"fwd": 5.0} if len(orders) == 1 else {}
    return SerializationCase(f"serialize 8, 100000 ({what})", 8, 100_000, orders, goals=goals)


OPS = (
    _scan(64, 4, 96, 3136, 1, 0.14, 0.30, "VMamba-T stage 1"),
    _scan(64, 4, 192, 784, 1, 0.075, 0.16, ""),
    _scan(64, 4, 384, 196, 1, 0.045, 0.09, ""),
    _scan(64, 4, 192, 3136, 1, 0.28, 0.60, "ratio 2"),
    _scan(32, 4, 192, 3136, 16, 0.9, 2.5, "VMamba v0"),
    _scan(128, 1, 384, 197, 16, 0.12, 0.30, "Vim-T 224"),
    _scan(128, 1, 768, 197, 16, 0.24, 0.60, "Vim-S 224"),
    _scan(8, 1, 384, 6085, 16, 0.17, 0.50, "Vim-T 1248"),
    _scan(1, 4, 96, 16384, 1, 0.02, 0.05, "one large image"),
    _scan(1, 1, 384, 16384, 16, 0.06, 0.18, ""),
    _ssd("ssd_noncausal", 64, 3136, 2, 64, 64, "VSSD-T stage 1"),
    _ssd("ssd_noncausal", 64, 784, 4, 64, 64, "VSSD-T stage 2"),
    _ssd("ssd_noncausal", 64, 196, 8, 64, 64, "VSSD-T stage 3"),
    _ssd("ssd_noncausal", 1, 65536, 2, 64, 64, "one large image"),
    # A third of what the compiled PyTorch implementation took.
    _ssd("ssd", 64, 196, 24, 64, 64, "patches of 16", fwd=0.18, fwd_bwd=0.7),
    _ssd("ssd", 4, 16384, 24, 64, 128, "long sequence", fwd=1.5, fwd_bwd=5.0),
    _serialization("xyz"),
    _serialization("z"),
    _serialization("hilbert"),
    _serialization(*POINT_ORDERS),
)


def _route_cases(batch: int, side: int, dim: int) -> Iterator[RouteCase]:
    """All registered scans at one size, those with tables of one shape together."""
    shapes: dict[tuple[int, int, int, bool], list[str]] = {}
    for name in list_scans():
        scan = get_scan(name)
        routes, steps = scan.function((side, side), device="meta").shape
        shapes.setdefault((dim // scan.num_slices, routes, steps, scan.covers), []).append(name)
    for (channels, routes, steps, covers), names in shapes.items():
        shared = "" if covers else " that share the tokens"
        label = f"{side}x{side}, {routes} route{'s' * (routes > 1)} of {steps}{shared}"
        goals = {"fwd": 1.1, "bwd": 1.1, "fwd+bwd": 1.1}
        yield RouteCase(label, batch, side, channels, routes, steps, covers, tuple(names), goals)


# Widths of VMamba-B: a quarter of them, which a route of `multi_head` has, fills sectors of memory.
SCANS = (*_route_cases(64, 14, 512), *_route_cases(64, 56, 128), *_route_cases(8, 128, 128))

VMAMBA_MIXER = dict(d_state=1, ssm_ratio=1.0, conv_bias=False, gate=False)
BLOCKS = (
    BlockCase("d 96, 56x56, batch 64, n 1", 96, 56, 64, VMAMBA_MIXER, {"fwd": 0.6, "fwd+bwd": 2.0}),
    BlockCase(
        "d 192, 28x28, batch 64, n 1", 192, 28, 64, VMAMBA_MIXER, {"fwd": 0.35, "fwd+bwd": 1.2}
    ),
    BlockCase(
        "d 384, 14x14, batch 64, n 1", 384, 14, 64, VMAMBA_MIXER, {"fwd": 0.25, "fwd+bwd": 1.0}
    ),
    BlockCase(
        "d 96 ratio 2, 56x56, batch 32, n 16", 96, 56, 32,
        dict(d_state=16, ssm_ratio=2.0), {"fwd": 1.5, "fwd+bwd": 5.0},
    ),
    BlockCase("VSSD-T stage 1", 64, 56, 64, dict(num_heads=2), mixer="NonCausalSSD"),
    BlockCase("VSSD-T stage 3", 256, 14, 64, dict(num_heads=8), mixer="NonCausalSSD"),
)  # fmt: skip


def _goals(inference: float, training: float) -> dict[str, float]:
    return {"inference": inference, "training": training}


# Names that timm's registry does not hold yet are skipped, and said to be.
MODELS = (
    ModelCase(
        "VMamba-T s1l8", "vmamba_tiny_s1l8", goals=_goals(12000, 4300), modes=(*BOTH, COMPACT)
    ),
    ModelCase("VMamba-T s2l5", "vmamba_tiny_s2l5", goals=_goals(8000, 3000)),
    ModelCase("VMamba-B s1l20", "vmamba_base_s1l20", batch=64, goals=_goals(5500, 1900)),
    ModelCase("VMamba-T s1l8 768", "vmamba_tiny_s1l8", batch=4, size=768, goals=_goals(950, 300)),
    ModelCase(
        "VMamba-T s1l8 batch 1", "vmamba_tiny_s1l8", batch=1, training=False,
        goals={"inference": 500},
    ),
    ModelCase("Vim-T", "vim_tiny", goals=_goals(20000, 5000), modes=(*BOTH, COMPACT)),
    ModelCase("Vim-S", "vim_small", goals=_goals(11000, 2800)),
    ModelCase(
        "Vim-T 1248", "vim_tiny", batch=4, size=1248, kwargs={"img_size": 1248},
        goals=_goals(1100, 250),
    ),
    ModelCase(
        "Spatial-Mamba-T", "spatial_mamba_tiny", goals=_goals(9000, 3000), modes=(*BOTH, COMPACT)
    ),
    ModelCase("VSSD-T", "vssd_tiny"),
    ModelCase("EfficientVMamba-T", "efficientvmamba_tiny"),
    ModelCase("EfficientViM-M1", "ssm_efficientvim_m1", batch=256, goals=_goals(90000, 15000)),
    ModelCase(
        "EfficientViM-M4 256", "ssm_efficientvim_m4", batch=256, size=256,
        goals=_goals(35000, 8000),
    ),
)  # fmt: skip

SWIN, CONVNEXT, DEIT = "swin_tiny_patch4_window7_224", "convnext_tiny", "deit_tiny_patch16_224"
MODEL_PEERS = (
    ModelCase("Swin-T (timm)", SWIN),
    ModelCase("ConvNeXt-T (timm)", CONVNEXT),
    ModelCase("MambaOut-T (timm)", "mambaout_tiny"),
    ModelCase("DeiT-T (timm)", DEIT),
    ModelCase("ViT-S (timm)", "vit_small_patch16_224"),
    ModelCase("EfficientViM-M1 (timm)", "efficientvim_m1", batch=256),
    ModelCase("EfficientViM-M4 256 (timm)", "efficientvim_m4", batch=256, size=256),
    ModelCase("DeiT-T 1248 (timm)", DEIT, batch=4, size=1248, kwargs={"img_size": 1248}),
)


def _on_cpu(label: str, model: str, as_fast_as: str | None = None) -> ModelCase:
    return ModelCase(
        label, model, batch=1, as_fast_as=as_fast_as, training=False, modes=(EAGER,),
        dtype=torch.float32,
    )  # fmt: skip


CPU = (  # models first, next to their peers: busy cores become slower in the course of a minute
    _on_cpu("VMamba-T s1l8", "vmamba_tiny_s1l8", as_fast_as=SWIN),
    _on_cpu("Vim-T", "vim_tiny", as_fast_as=DEIT),
    _scan_on_cpu(1, 4, 96, 3136, 1, "VMamba-T stage 1"),
    _scan_on_cpu(1, 4, 384, 196, 1, "VMamba-T stage 3"),
    _scan_on_cpu(1, 1, 384, 197, 16, "Vim-T 224"),
    _scan_on_cpu(8, 4, 96, 3136, 1, "eight images"),
)
CPU_PEERS = (
    _on_cpu("Swin-T (timm)", SWIN),
    _on_cpu("ConvNeXt-T (timm)", CONVNEXT),
    _on_cpu("DeiT-T (timm)", DEIT),
)

MMDET_SWIN = "mmdet.SwinTransformer"
DETECTOR = "Mask R-CNN 1x", "configs/detection/mask_rcnn_vmamba_tiny_s1l8_1x_coco.py"
SEGMENTOR = "UPerNet", "configs/segmentation/upernet_vmamba_tiny_s1l8_160k_ade20k.py"


def _dense(model: str, as_fast_as: str | None = None) -> tuple[DenseCase, ...]:
    return (
        *(DenseCase(*DETECTOR, model, batch, (800, 1333), as_fast_as) for batch in (2, 4)),
        *(DenseCase(*SEGMENTOR, model, batch, (512, 512), as_fast_as) for batch in (8, 16)),
    )


DENSE = _dense("vmamba_tiny_s1l8", as_fast_as=SWIN)
DENSE_PEERS = (*_dense(SWIN), *_dense(MMDET_SWIN))

SUITES: dict[str, tuple[Case, ...]] = {
    "ops": OPS,
    "blocks": BLOCKS,
    "models": MODELS,
    "dense": DENSE,
    "scans": SCANS,
    "cpu": CPU,
}
PEERS: dict[str, tuple[ModelCase | DenseCase, ...]] = {  # go first
    "models": MODEL_PEERS,
    "dense": DENSE_PEERS,
    "cpu": CPU_PEERS,
}
MAMBA_SSM = "mamba_ssm"
PYTORCH = "visionssm, PyTorch"  # our implementation in PyTorch, beside that in kernels


def peer_names() -> list[str]:
    """What our rows can be compared with, by name."""
    return sorted({MAMBA_SSM, *(case.model for cases in PEERS.values() for case in cases)})
