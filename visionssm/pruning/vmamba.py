"""Pruned VMamba: the grid stays, and scans skip the tokens that were removed from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from timm.models import checkpoint
from torch import Tensor

from visionssm.layers import SS2D
from visionssm.models.staged import Stage
from visionssm.models.vmamba import VMamba
from visionssm.ops import selective_scan

from .importance import BlockOutput
from .protocol import KeptPatches, Pruning, register_pruned_form
from .tokens import route_gaps, select, shorten_routes, take


class KeptRoutes(NamedTuple):
    """The tokens that a stage's scans still visit."""

    positions: Tensor  # (b, n) tokens of the grid, ascending
    routes: Tensor  # (b, k, n) index among them at each step
    gaps: Tensor | None  # (b, k, n) of each step, those of the full route since the last kept one


class PrunedStage(Stage):
    """A `Stage` whose blocks, after one that removes tokens, scan the kept ones alone."""

    pruning: Pruning
    first_block: int  # of the model's blocks

    def forward(self, x: Tensor) -> Tensor:
        *_, (_, x, _) = self.run_blocks(self.downsample(x))
        return x

    def run_blocks(self, x: Tensor) -> Iterator[tuple[int, Tensor, KeptRoutes | None]]:
        """Each block's index in the model, its output, and what the next one scans."""
        kept: KeptRoutes | None = None
        for i, block in enumerate(self.blocks, start=self.first_block):
            removes = i in self.pruning.schedule.keep
            if kept is None and not removes:
                x = checkpoint(block, x) if self.grad_checkpointing else block(x)
            else:
                if self.grad_checkpointing:
                    x, scanned = checkpoint(run_block, block, x, kept)
                else:
                    x, scanned = run_block(block, x, kept)
                if removes:
                    kept = self.remove(i, block.get_submodule("op"), x, scanned, kept)
            yield i, x, kept

    def remove(
        self, i: int, mixer: Any, x: Tensor, scanned: Tensor, kept: KeptRoutes | None
    ) -> KeptRoutes:
        """What the next blocks scan: the most important of the tokens that block i scanned."""
        b, h, w, _ = x.shape
        if kept is None:
            positions = torch.arange(h * w, device=x.device).expand(b, -1)
        else:
            positions = kept.positions
        tokens = take(x.flatten(1, 2), positions)
        scores = self.pruning.score(BlockOutput(tokens, scanned, positions, i, self.pruning.seed))
        num_kept = self.pruning.schedule.num_kept(i, positions.shape[1])
        positions = positions.gather(1, select(scores, num_kept, None)[0])
        routes, steps = shorten_routes(mixer.routes(h, w, x), positions)
        gaps = None if self.pruning.mode == "hard" else route_gaps(steps)
        return KeptRoutes(positions, routes, gaps)


@register_pruned_form(VMamba)
class PrunedVMamba(VMamba):
    """A `VMamba` whose scans skip what ``self.pruning`` removes; the maps keep every token.

    A token that scans skip still passes through convolutions, projections and MLPs, and the mixer
    answers with its skip term D u, as for a token whose state is zero. Removed tokens are back in
    the next stage.

    Raises:
        ValueError: at `prune`, for a mode, time or scan that a grid does not allow.
    """

    pruning: Pruning

    def prunable_blocks(self) -> tuple[Sequence[int], Sequence[int]]:
        """All blocks but the last of each stage; by default the first of each."""
        blocks: list[int] = []
        first: list[int] = []
        begin = 0
        for stage in self.stages.children():
            end = begin + len(list(stage.get_submodule("blocks").children()))
            blocks += range(begin, end - 1)
            first += range(begin, end - 1)[:1]
            begin = end
        return blocks, first

    def check_pruning(self, pruning: Pruning) -> None:
        """Raise ValueError where the grid or the scan does not allow it."""
        if pruning.mode == "merge":
            raise ValueError("mode: tokens of a grid cannot merge, expected 'align' or 'hard'")
        if pruning.mode == "align" and pruning.time != "gap_power":
            raise ValueError(
                f"time: expected 'gap_power' for routes over a grid, got {pruning.time!r}"
            )
        for module in self.modules():
            if isinstance(module, SS2D) and not (
                module.scan.complete and module.scan.num_slices == 1
            ):
                raise ValueError(
                    f"model: the routes of its scan {module.scan.name!r} do not all visit every "
                    "token with all channels, so they cannot be shortened alike"
                )

    def switch_parts(self, pruned: bool) -> None:
        """Swap the stages' classes too: what a stage's blocks scan is one block's to decide."""
        begin = 0
        for stage in self.stages:
            part: Any = stage
            part.__class__ = PrunedStage if pruned else Stage
            if pruned:
                part.pruning, part.first_block = self.pruning, begin
            else:
                del part.pruning, part.first_block
            begin += len(part.blocks)

    def kept_patches(self, x: Tensor) -> list[KeptPatches]:
        """Which patches are still scanned after each block that removes some."""
        found = []
        x = self.stem(x)
        for stage in self.stages:
            part: Any = stage
            outputs = part.run_blocks(part.downsample(x))
            for i, x, kept in outputs:
                if i in self.pruning.schedule.keep:
                    found.append(KeptPatches(i, (x.shape[1], x.shape[2]), kept.positions))
        return found


def run_block(block: Any, x: Tensor, kept: KeptRoutes | None) -> tuple[Tensor, Tensor]:
    """A `VMambaBlock` on a map (b, h, w, dim) of which kept tokens are scanned.

    Returns:
        The map, and the gated scan output of the scanned tokens (b, n, d).
    """
    mixer = block.op
    u, z = mixer.expand(block.norm(x))
    y, scanned = scan_kept(mixer, u, kept)
    if z is not None:
        gate = z.detach().flatten(1, 2)
        gate = gate if kept is None else take(gate, kept.positions)
        scanned = scanned * gate
    x = x + block.drop_path(mixer.contract(y, z))
    if block.mlp is not None:
        x = x + block.drop_path(block.mlp(block.norm2(x)))
    return x, scanned


def scan_kept(mixer: SS2D, u: Tensor, kept: KeptRoutes | None) -> tuple[Tensor, Tensor]:
    """Routes added up at each token of a map (b, h, w, d), and at those scanned (b, n, d)."""
    _, h, w, _ = u.shape
    tokens = u.flatten(1, 2)
    A, D, bias = mixer.recurrence()
    if kept is None:
        inputs, routes, gaps = tokens, mixer.routes(h, w, u), None
    else:
        inputs, routes, gaps = take(tokens, kept.positions), kept.routes, kept.gaps
    delta, B, C = mixer.project(inputs)
    scanned: Any = selective_scan(
        inputs[:, None], delta, A, B, C, D, bias,
        gaps=gaps, routes=routes, reduce="sum", complete=True,
    )  # fmt: skip
    y = scanned
    if kept is not None:
        skipped = (tokens * D.sum(0)).to(y.dtype)
        y = skipped.scatter(1, kept.positions[..., None].expand_as(y), y)
    return y.unflatten(1, (h, w)), scanned.detach()
