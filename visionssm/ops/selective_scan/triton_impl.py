"""The selective scan's Triton implementation on the host: tensors, launch sizes, sums of parts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..launch import cdiv, check_device, device_of, interpreting, next_power_of_2, unit_stride
from .kernels import backward_kernel, carry_kernel, forward_kernel

STEPS = 16  # of a run, and between two saved states
COLUMNS = 32  # of a tile: one a thread
# With one state a tile has two runs of steps, one after the other, each in half of the lanes:
RUNS = 2
RUN_STEPS = 8  # of a run, two channels a lane: loads of 32 bits, and half as many
# Of its forward pass:
NARROW_PROGRAMS_PER_SM = 6  # up to so many programs, runs of 16 steps of half as many channels
WIDE_COLUMNS = 64  # of a tile of one run, two a thread, if they divide the width ...
WIDE_PROGRAMS_PER_SM = 20  # ... where there are more programs than run, or segments fill the device
STATE_STEPS = 4  # of a tile of the forward pass with several states ...
STATE_VALUES = 1024  # ... of so many channels that their states fit into the registers of a warp
RESIDENT_PROGRAMS_PER_SM = 8  # that run at a time if a thread has all the registers it can
REGISTERS = 168  # of a thread, at most, forward where there are more of several states, ...
LIMITED_PROGRAMS_PER_SM = 12  # ... backward with one where they, but no more, then run at a time
EXACT_STATE_SIZE = 4  # above it, states that are kept are rounded to bfloat16 if tokens are
MAX_SAVED_STATE_BYTES = 32  # of a channel; above it, memory is dearer than a second pass
PROGRAMS_PER_SM = 4  # with fewer programs than this the length is split ...
SLOTS = 16  # ... into as many as run on a multiprocessor at a time, or in two waves, or ...
WIDE_SLOTS = 12  # ... forward with wide tiles or short segments, or ...
STATES_SLOTS = 24  # ... with several states, or ...
BACKWARD_STATES_SLOTS = 8  # ... backward with several states ...
MIN_SEGMENT = 128  # ... of no fewer steps than this, or ...
MIN_STATES_SEGMENT = 64  # ... with several states, if all run at a time
MIN_SPLIT = 256  # steps of a route of one state that is split: for fewer, two passes cost more
MAX_INT32_OFFSET = 2**31 - 1  # elements a token index may step over before it needs 64 bits


def saved_states(u: Tensor, b: int, k: int, length: int, d: int, n: int) -> Tensor:
    """Memory for what the forward pass keeps for the backward pass, or none (recomputed)."""
    if n * _state_dtype(u, n).itemsize > MAX_SAVED_STATE_BYTES:
        return u.new_empty(0)
    return _new_states(u, b, k, length, d, n)


def _new_states(u: Tensor, b: int, k: int, length: int, d: int, n: int) -> Tensor:
    """Memory for the states between runs of steps."""
    return u.new_empty(b, k, cdiv(length, STEPS), n, d, dtype=_state_dtype(u, n))


def _state_dtype(u: Tensor, n: int) -> torch.dtype:
    rounded = u.dtype == torch.bfloat16 and n > EXACT_STATE_SIZE  # float16 might overflow
    return torch.bfloat16 if rounded else torch.float32


def num_parts(delta: Tensor) -> tuple[int, int]:
    """Parts that the gradients of B and C come in, and those of A, D and delta_bias."""
    return cdiv(delta.shape[3], _columns(delta.shape[3])), delta.shape[0]


def num_steps(l: int, routes: Tensor | None, complete: bool) -> int:
    """Steps of a route; complete ones have as many as tokens, whatever `whole_tiles` added."""
    return l if routes is None or complete else routes.shape[-1]


def whole_tiles(steps: Tensor) -> Tensor:
    """Complete routes, or gaps, (..., s) with the last repeated until s is a multiple of `STEPS`.

    Threads then load those of a tile as vectors, without masks or limits. No branch depends on a
    dynamic s.
    """
    length = steps.shape[-1]
    if isinstance(length, int) and length % STEPS == 0:
        return steps
    padded = cdiv(length, STEPS) * STEPS
    last = torch.arange(padded, device=steps.device).clamp(max=length - 1)
    return steps.index_select(-1, last)


class Tile(NamedTuple):
    """Columns of a tile, in how many runs of steps they are, and of how many steps."""

    columns: int
    runs: int
    run_steps: int

    @property
    def channels(self) -> int:
        return self.columns // self.runs

    @property
    def steps(self) -> int:
        return self.runs * self.run_steps


def _columns(d: int) -> int:
    """Of a tile; in the interpreter idle ones cost time."""
    return min(COLUMNS, max(2, next_power_of_2(d))) if interpreting() else COLUMNS


def _one_state_tile(routes: int, d: int, length: int, device: torch.device) -> Tile:
    """Of the forward pass with one state, for so many routes of all images."""
    columns, multiprocessors = _columns(d), _multiprocessors(device)
    programs = routes * cdiv(d, columns)
    if length >= MIN_SPLIT and _is_split(programs, device):
        segments = routes * cdiv(d, WIDE_COLUMNS) * (length // MIN_SEGMENT)
        many = segments >= WIDE_SLOTS * multiprocessors
        few = not many
    else:
        few = programs <= NARROW_PROGRAMS_PER_SM * multiprocessors
        many = programs > WIDE_PROGRAMS_PER_SM * multiprocessors
    if few and columns >= 2 * RUNS:
        return Tile(columns, RUNS, STEPS)
    if many and d % WIDE_COLUMNS == 0:
        return Tile(WIDE_COLUMNS, 1, STEPS)
    return Tile(RUNS * columns, RUNS, RUN_STEPS)


def selective_scan_forward(
    u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes,
    delta_softplus, outputs, complete, save_states,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """y (b, outputs, k / outputs, l, d), the last state (b, k, d, n), and the saved states, if any.

    Routes are not added up: the compiler does it with what follows.
    """
    call = _Call(
        u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, delta_softplus, complete,
        save_states,
    )  # fmt: skip
    b, k, l, d, n = call.sizes
    y = call.new_tokens(d, u.dtype)
    states = saved_states(u, b, k, call.length, d, n) if save_states else u.new_empty(0)
    with device_of(u):
        carry = call.segment_starts()
        call.run_forward(carry, y=y, states=states if states.numel() else None)
    last_state = carry[:, :, -1].contiguous().transpose(2, 3)
    return y.unflatten(1, (outputs, -1)), last_state, states


def selective_scan_backward(
    grad_y, grad_last_state, u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, states,
    delta_softplus, complete,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of (u, delta, A, B, C, D, delta_bias, elapsed), of u by route; see `num_parts`."""
    call = _Call(
        u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, delta_softplus, complete,
        save_states=True,
    )  # fmt: skip
    b, k, l, d, n = call.sizes
    with device_of(u):
        if not states.numel():
            states = _new_states(u, b, k, call.length, d, n)
            call.run_forward(call.segment_starts(), states=states)
        return call.run_backward(unit_stride(grad_y), grad_last_state, states)


class Segments(NamedTuple):
    """What a route is cut into."""

    number: int
    steps: int  # of each, but the last may have fewer


class _Call:
    """One call's tensors, sizes and launch parameters, shared by all its kernels."""

    def __init__(
        self, u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes, delta_softplus, complete,
        save_states,
    ):  # fmt: skip
        check_device("u", u)
        b, k, l, d = delta.shape
        self.sizes = b, k, l, d, A.shape[1]
        self.u, self.delta = unit_stride(u), unit_stride(delta)
        self.elapsed = None if elapsed is None else unit_stride(elapsed)
        # B and C are slices of one projection as a rule, and then share dtype and strides.
        if B.dtype != C.dtype:
            B, C = B.float(), C.float()
        if B.stride() != C.stride():
            B, C = B.contiguous(), C.contiguous()
        self.B, self.C = B, C
        self.A = A.contiguous()  # (k, n, d), channels innermost as in the states
        self.D, self.delta_bias = (None if t is None else t.contiguous() for t in (D, delta_bias))
        self.length = num_steps(l, routes, complete)
        if routes is not None and complete:
            routes, gaps = whole_tiles(routes), None if gaps is None else whole_tiles(gaps)
        self.routes, self.gaps = (None if t is None else t.contiguous() for t in (routes, gaps))
        self.zero_rows = routes is not None and not complete
        n = self.sizes[4]
        columns = _columns(d)
        # Segments are whole tiles: forward with several states, whole runs only if any are saved.
        if n == 1:
            tile = self.forward_tile = _one_state_tile(b * k, d, self.length, u.device)
            self.backward_tile = Tile(RUNS * columns, RUNS, RUN_STEPS)
            slots = SLOTS if tile.run_steps == RUN_STEPS else WIDE_SLOTS
            self.forward_segments = self._segments(tile, tile.steps, slots, MIN_SEGMENT)
            self.backward_segments = self._segments(self.backward_tile, STEPS, SLOTS, MIN_SEGMENT)
        else:
            tile = self.backward_tile = self.forward_tile = Tile(columns, 1, STEPS)
            steps = STEPS if save_states else STATE_STEPS
            one_wave = self._segments(tile, steps, WIDE_SLOTS, MIN_STATES_SEGMENT)
            two_waves = self._segments(tile, steps, STATES_SLOTS, MIN_SEGMENT)
            self.forward_segments = max(one_wave, two_waves)
            self.backward_segments = self._segments(
                tile, STEPS, BACKWARD_STATES_SLOTS, MIN_STATES_SEGMENT
            )
        self.flags = dict(
            N=n,
            HAS_ROUTES=routes is not None, COMPLETE=complete, HAS_D=D is not None,
            HAS_BIAS=delta_bias is not None, HAS_ELAPSED=elapsed is not None,
            HAS_GAPS=gaps is not None, SOFTPLUS=delta_softplus, num_warps=1,
        )  # fmt: skip

    def row_flags(self, *tensors: Tensor) -> dict[str, bool]:
        """How the kernel may step over rows of these tensors, the outputs' being d apart."""
        _, _, l, d, _ = self.sizes
        strides = [x.stride(2) for x in tensors]
        if self.elapsed is not None:
            strides.append(self.elapsed.stride(2))
        widest = max(*strides, self.B.stride(2), d)
        return {"DENSE": all(s == d for s in strides), "WIDE": l * widest > MAX_INT32_OFFSET}

    def _segments(self, tile: Tile, steps: int, slots: int, min_segment: int) -> Segments:
        programs = self.programs(tile)
        if self.sizes[4] == 1 and self.length < MIN_SPLIT:
            min_segment = MIN_SPLIT
        return _split_length(self.length, steps, programs, slots, min_segment, self.u.device)

    def programs(self, tile: Tile) -> int:
        """Of one segment."""
        b, k, _, d, _ = self.sizes
        return b * k * cdiv(d, tile.channels)

    def forward_launch(self) -> dict[str, int]:
        """Tile of the forward pass, which has one state in registers, or all of them."""
        n, tile = self.sizes[4], self.forward_tile
        if n == 1:
            launch = {"NP": 1, "T": tile.run_steps, "TS": STEPS}
            return launch | {"BD": tile.columns, "W": tile.runs}
        states = next_power_of_2(n)
        columns = min(tile.columns, STATE_VALUES // states)
        launch = {"NP": states, "T": STATE_STEPS, "TS": STEPS, "BD": columns, "W": 1}
        programs = self.programs(tile) * self.forward_segments.number
        if programs > RESIDENT_PROGRAMS_PER_SM * _multiprocessors(self.u.device):
            launch["maxnreg"] = REGISTERS
        return launch

    def backward_launch(self) -> dict[str, int]:
        """The same of the backward pass, which with one state may load the next tile's rows."""
        tile = self.backward_tile
        launch = {"T": tile.run_steps, "BD": tile.columns, "W": tile.runs, "EARLY": False}
        if self.sizes[4] > 1:
            return launch
        programs = self.programs(tile) * self.backward_segments.number
        if _is_one_limited_wave(programs, self.u.device):
            return launch | {"maxnreg": REGISTERS}
        return launch | {"EARLY": self.elapsed is None}

    def grid(self, channels: int, segments: Segments, summary: bool) -> tuple[int, int]:
        """Programs, each of so many channels of one segment; summaries leave out the last one."""
        b, k, _, d, _ = self.sizes
        return b * k * cdiv(d, channels), segments.number - summary

    def new_tokens(self, width: int, dtype: torch.dtype) -> Tensor:
        """(b, k, l, width); zeros where some tokens may never be visited."""
        b, k, l, *_ = self.sizes
        new = self.u.new_zeros if self.zero_rows else self.u.new_empty
        return new(b, k, l, width, dtype=dtype)

    def carry_shape(self, segments: Segments) -> tuple[int, ...]:
        b, k, _, d, n = self.sizes
        return b, k, segments.number, n, d

    def run_forward(self, carry, y=None, states=None, sum_e=None) -> None:
        """Scan all segments from `carry`, if it has been set; it receives their last states."""
        b, k, l, d, _ = self.sizes
        launch, segments = self.forward_launch(), self.forward_segments
        summary = sum_e is not None
        forward_kernel[self.grid(launch["BD"] // launch["W"], segments, summary)](
            self.u, self.delta, self.A, self.B, self.C, *self._optional_inputs(),
            _or(y, carry), carry, _or(states, carry), _or(sum_e, carry),
            *_token_strides(self.u), *_token_strides(self.delta), *self._elapsed_strides(),
            *_strides(self.B), *self._route_strides(),
            k, k // self.u.shape[1], l, d, self.length, segments.steps,
            HAS_CARRY=segments.number > 1 and not summary, STORE_Y=y is not None,
            STORE_STATES=states is not None, SUMMARY=summary,
            **launch, **self.row_flags(self.u, self.delta), **self.flags,
        )  # fmt: skip

    def segment_starts(self) -> Tensor:
        """State at the start of every segment, (b, k, segments, n, d); not set if there is one."""
        segments = self.forward_segments
        carry = self.u.new_empty(self.carry_shape(segments), dtype=torch.float32)
        if segments.number > 1:
            sum_e = self._new_sum_e(segments)
            self.run_forward(carry, sum_e=sum_e)
            self._carry(carry, sum_e)
        return carry

    def run_backward(self, grad_y, grad_last_state, states):
        b, k, l, d, n = self.sizes
        f32 = torch.float32
        first = None
        if grad_last_state is not None:
            first = grad_last_state.transpose(2, 3).contiguous()
        segments = self.backward_segments
        carry = self.u.new_zeros(self.carry_shape(segments), dtype=f32)
        if segments.number > 1:
            sum_e = self._new_sum_e(segments)
            self._launch_backward(grad_y, states, carry, sum_e=sum_e, SUMMARY=True)
            self._carry(carry, sum_e, first, reverse=True)
        elif first is not None:
            carry[:, :, 0] = first

        gu = self.new_tokens(d, self.u.dtype)
        gelapsed = None
        if self.elapsed is not None:
            gelapsed = self.new_tokens(d, self.elapsed.dtype)
        gdelta = empty_like_tokens(self.delta)
        if self.zero_rows:
            gdelta.zero_()
        new_rows = self.u.new_zeros if self.zero_rows else self.u.new_empty
        parts = cdiv(d, self.backward_tile.channels)
        gB, gC = (new_rows(parts, b, k, l, n, dtype=f32) for _ in range(2))
        new_sums = carry.new_empty if n == 1 else carry.new_zeros  # of several, tiles add to them
        gA = new_sums(*carry.shape[:3], n, d)
        gD, gbias = (carry.new_empty(*carry.shape[:3], d) for _ in range(2))
        self._launch_backward(
            grad_y, states, carry, gu, gdelta, gA, gB, gC, gD, gbias, gelapsed, SUMMARY=False
        )
        gA, gD, gbias = (t.sum(2) if segments.number > 1 else t[:, :, 0] for t in (gA, gD, gbias))
        return (
            gu, gdelta, gA, gB, gC, None if self.D is None else gD,
            None if self.delta_bias is None else gbias, gelapsed,
        )  # fmt: skip

    def _launch_backward(
        self, grad_y, states, carry,
        gu=None, gdelta=None, gA=None, gB=None, gC=None, gD=None, gbias=None, gelapsed=None,
        sum_e=None, *, SUMMARY,
    ) -> None:  # fmt: skip
        b, k, l, d, n = self.sizes
        gdelta = _or(gdelta, carry)
        outputs = (gu, gdelta, gA, gB, gC, gD, gbias)
        segments = self.backward_segments
        backward_kernel[self.grid(self.backward_tile.channels, segments, SUMMARY)](
            grad_y, self.u, self.delta, self.A, self.B, self.C, *self._optional_inputs(),
            states, carry, *(_or(t, carry) for t in outputs),
            self.elapsed if gelapsed is None else gelapsed, _or(sum_e, carry),
            *_token_strides(grad_y), *_token_strides(self.u), *_token_strides(self.delta),
            *self._elapsed_strides(), *_strides(self.B), *self._route_strides(), b * k * l * n,
            gdelta.stride(0), gdelta.stride(1), gdelta.stride(2),
            k, k // self.u.shape[1], k // grad_y.shape[1], l, d, self.length, segments.steps,
            SUMMARY=SUMMARY,
            **self.backward_launch(), **self.row_flags(self.u, self.delta, grad_y), **self.flags,
        )  # fmt: skip

    def _new_sum_e(self, segments: Segments) -> Tensor:
        b, k, _, d, _ = self.sizes
        return self.u.new_empty(b, k, segments.number, d, dtype=torch.float32)

    def _carry(self, carry, sum_e, first=None, reverse=False) -> None:
        b, k, num_segments, n, d = carry.shape
        columns = self.backward_tile.channels
        carry_kernel[(b * k * cdiv(d, columns), n)](
            carry, sum_e, self.A, _or(first, carry), k, d, num_segments,
            N=n, T=STEPS, BD=columns, REVERSE=reverse, HAS_FIRST=first is not None,
            num_warps=1,
        )  # fmt: skip

    def _optional_inputs(self):
        D, delta_bias, routes = (_or(t, self.u) for t in (self.D, self.delta_bias, self.routes))
        return D, delta_bias, self.elapsed, self.gaps, routes

    def _elapsed_strides(self):
        return (None, None, None) if self.elapsed is None else _token_strides(self.elapsed)

    def _route_strides(self) -> tuple[int, int]:
        """Of images, and of routes, which is that of gaps too: the steps of one."""
        table = self.gaps if self.routes is None else self.routes
        steps = 0 if table is None else table.shape[-1]
        per_image = self.routes is not None and self.routes.dim() == 3
        return self.sizes[1] * steps if per_image else 0, steps


def empty_like_tokens(x: Tensor) -> Tensor:
    """Empty (b, k, l, d), laid out as x where that is (b, l, k, d), the way a projection gives it.

    The gradient of the projection can then take it as it is.
    """
    if x.transpose(1, 2).is_contiguous():
        return torch.empty_like(x.transpose(1, 2)).transpose(1, 2)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _split_length(
    length: int, multiple: int, programs: int, slots: int, min_segment: int, device: torch.device
) -> Segments:
    """Segments of multiples of steps that fill the device once; one where so many programs do."""
    steps = max(1, length)
    if _is_split(programs, device):
        number = max(1, slots * _multiprocessors(device) // max(1, programs))
        steps = max(min_segment, cdiv(length, number))
    steps = cdiv(steps, multiple) * multiple
    return Segments(max(1, cdiv(length, steps)), steps)


def _is_one_limited_wave(programs: int, device: torch.device) -> bool:
    """Whether so many programs run at a time, but only if each has fewer registers."""
    multiprocessors = _multiprocessors(device)
    resident, limited = RESIDENT_PROGRAMS_PER_SM, LIMITED_PROGRAMS_PER_SM
    return resident * multiprocessors < programs <= limited * multiprocessors


def _is_split(programs: int, device: torch.device) -> bool:
    """Whether so many programs leave a CUDA device idle."""
    return device.type == "cuda" and programs < PROGRAMS_PER_SM * _multiprocessors(device)


def _multiprocessors(device: torch.device) -> int:
    """Of a CUDA device; the interpreter is one."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _token_strides(x: Tensor) -> tuple[int, int, int]:
    """Strides of b, k (0 where one k serves all routes) and l."""
    return x.stride(0), 0 if x.shape[1] == 1 else x.stride(1), x.stride(2)


def _strides(x: Tensor) -> tuple[int, int, int, int]:
    return x.stride(0), x.stride(1), x.stride(2), x.stride(3)


def _or(tensor: Tensor | None, placeholder: Tensor) -> Tensor:
    """Kernels take a pointer even where a flag says it is not read."""
    return placeholder if tensor is None else tensor
