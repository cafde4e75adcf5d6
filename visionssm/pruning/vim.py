"""Pruned Vim: tokens leave the sequence between blocks, and its clock goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models import checkpoint
from timm.models._features import feature_take_indices
from torch import Tensor

from visionssm.layers.precision import at_least_float32
from visionssm.models.vim import Vim, take_middle

from .importance import BlockOutput
from .protocol import KeptPatches, Pruning, register_pruned_form
from .tokens import carried_time, merge, position_gaps, select, take


class KeptTokens(NamedTuple):
    """The sequence between two blocks."""

    x: Tensor  # (b, l, c)
    positions: Tensor  # (b, l) place of each in the unpruned sequence, ascending
    class_index: Tensor | None  # (b, 1) index of the class token
    clock: Tensor | None = None  # (b, 2, l, d) carried time, or (b, 2, l) gaps of positions
    sizes: Tensor | None = None  # (b, l, 1) how many tokens each stands for, if they are merged


class BlockTrace(NamedTuple):
    """What a pruned block computed on the way."""

    scanned: Tensor  # (b, l, d) gated scan output
    step_sizes: Tensor | None  # (b, 2, l, d), if time is carried
    elapsed: Tensor | None  # (b, 2, l, d), if time is carried


@register_pruned_form(Vim)
class PrunedVim(Vim):
    """A `Vim` whose tokens leave it as ``self.pruning`` says."""

    pruning: Pruning

    def prunable_blocks(self) -> tuple[Sequence[int], Sequence[int]]:
        """All blocks but the last; by default after a quarter, a half and three quarters."""
        depth = len(self.blocks)
        quarters = {round(depth * i / 4) - 1 for i in (1, 2, 3)}
        return range(depth - 1), sorted(block for block in quarters if 0 <= block < depth - 1)

    def check_pruning(self, pruning: Pruning) -> None:
        """Every way of pruning is possible."""

    def switch_parts(self, pruned: bool) -> None:
        """Nothing: blocks and mixers are used as they are."""

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) to normalised tokens (b, l', num_features).

        They are the kept ones, in order; only the class token is in their middle, where `Vim` has
        it and `pool` reads it.
        """
        *_, (_, tokens) = self.run_blocks(self.embed(x))
        return self.norm(class_token_to_middle(tokens))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """As `Vim`'s; in the maps, removed patches have the features that they had last."""
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt: expected 'NCHW' or 'NHWC', got {output_fmt!r}")
        take_indices, max_index = feature_take_indices(len(self.blocks), indices)
        grid = self.patch_embed.dynamic_feat_size((x.shape[2], x.shape[3]))
        intermediates = []
        full = x = self.embed(x)
        for i, tokens in self.run_blocks(x):
            # A block reads what the one before it kept, so what is about to leave is written here.
            full = put_back(full, tokens)
            if i in take_indices:
                out = self.norm(full) if norm else full
                out = out if self.cls_token is None else take_middle(out)[0]
                out = out.unflatten(1, grid)
                if output_fmt == "NCHW":
                    out = out.permute(0, 3, 1, 2).contiguous()
                intermediates.append(out)
            if stop_early and i == max_index:
                break
        if intermediates_only:
            return intermediates
        return self.norm(class_token_to_middle(tokens)), intermediates

    def kept_patches(self, x: Tensor) -> list[KeptPatches]:
        """Which patches stay after each block that removes some."""
        height, width = self.patch_embed.dynamic_feat_size((x.shape[2], x.shape[3]))
        found = []
        for i, tokens in self.run_blocks(self.embed(x)):
            if i - 1 in self.pruning.schedule.keep:
                patches = tokens.positions
                if tokens.class_index is not None:
                    token = patches.gather(1, tokens.class_index)
                    patches = patches[patches != token].unflatten(0, (len(patches), -1))
                    patches = patches - (patches > token).long()
                found.append(KeptPatches(i - 1, (height, width), patches))
        return found

    def run_blocks(self, x: Tensor) -> Iterator[tuple[int, KeptTokens]]:
        """Each block's index and output for embedded tokens (b, l, c), before any of it leaves."""
        b, l, _ = x.shape
        positions = torch.arange(l, device=x.device).expand(b, -1)
        class_index = None if self.cls_token is None else positions[:, (l - 1) // 2, None]
        tokens = KeptTokens(x, positions, class_index)
        for i, block in enumerate(self.blocks):
            removes = i in self.pruning.schedule.keep
            trace = None
            if not removes and tokens.clock is None:
                x = checkpoint(block, tokens.x) if self.grad_checkpointing else block(tokens.x)
            else:
                arguments = block, tokens.x, tokens.clock, self.pruning.clock, removes
                if self.grad_checkpointing:
                    x, trace = checkpoint(run_block, *arguments)
                else:
                    x, trace = run_block(*arguments)
            tokens = tokens._replace(x=x)
            yield i, tokens
            if trace is not None:
                tokens = self.remove(i, tokens, trace)

    def remove(self, i: int, tokens: KeptTokens, trace: BlockTrace) -> KeptTokens:
        """What goes on after block i: the most important tokens, and the time of the others."""
        x, positions, class_index, _, sizes = tokens
        scores = self.pruning.score(BlockOutput(x, trace.scanned, positions, i, self.pruning.seed))
        num_patches = x.shape[1] - (0 if class_index is None else 1)
        num_kept = self.pruning.schedule.num_kept(i, num_patches)
        kept, dropped = select(scores, num_kept, class_index)
        positions = positions.gather(1, kept)
        if class_index is not None:
            class_index = (kept < class_index).sum(1, keepdim=True)
        clock = None
        if self.pruning.clock == "gap_power":
            clock = position_gaps(positions)
        elif trace.elapsed is not None and trace.step_sizes is not None:
            clock = carried_time(trace.elapsed, trace.step_sizes, kept).to(trace.elapsed.dtype)
        if self.pruning.mode == "merge":
            sizes = torch.ones_like(x[..., :1]) if sizes is None else sizes
            x, sizes = merge(x, sizes, kept, dropped, class_index)
        else:
            x = take(x, kept)
        return KeptTokens(x, positions, class_index, clock, sizes)


def run_block(
    block: Any, x: Tensor, clock: Tensor | None, time: str | None, traced: bool
) -> tuple[Tensor, BlockTrace | None]:
    """A `VimBlock` on tokens between which time passes, (b, l, c), and what it did on the way."""
    mixer = block.mixer
    inner, z = mixer.in_proj(block.norm(x)).chunk(2, dim=-1)
    inner = mixer.convolve(inner)
    delta, B, C = mixer.project(inner)
    step_sizes = elapsed = None
    if time == "carried":
        step_sizes = F.softplus(at_least_float32(delta) + mixer.step_size_bias()[:, None])
        elapsed = (step_sizes if clock is None else step_sizes + clock).to(delta.dtype)
    y = mixer.scan(
        inner, delta, B, C,
        elapsed=None if clock is None else elapsed,
        gaps=clock if time == "gap_power" else None,
    )  # fmt: skip
    x = x + block.drop_path(block.ls(mixer.gate(y, z)))
    if not traced:
        return x, None
    return x, BlockTrace(y.detach() * mixer.act(z.detach()), step_sizes, elapsed)


def class_token_to_middle(tokens: KeptTokens) -> Tensor:
    """The tokens (b, l, c) with the class token, if any, before patch floor((l - 1) / 2)."""
    x, _, class_index, *_ = tokens
    if class_index is None:
        return x
    place = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
    middle = (x.shape[1] - 1) // 2
    patch = place - (place > middle).long()
    index = torch.where(place == middle, class_index, patch + (patch >= class_index).long())
    return take(x, index)


def put_back(full: Tensor, tokens: KeptTokens) -> Tensor:
    """The unpruned sequence (b, m, c) with the tokens at their places."""
    if tokens.x.shape[1] == full.shape[1]:
        return tokens.x
    index = tokens.positions[..., None].expand(-1, -1, full.shape[2])
    return full.scatter(1, index, tokens.x.to(full.dtype))
