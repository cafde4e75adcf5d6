"""Selective scan in Triton: forward, backward, routes read inside the kernels.

One program, a single warp, owns some channels of one (batch, route) pair and walks a segment of the
route in tiles of steps, gathering token rows by the route. A tile is 16 steps of 32 channels: with
one state two runs of 8 steps, one after the other, each in half of the lanes, so that a lane has
two channels, which it loads and stores as 32 bits. Forward it is one run of 16 steps of 64 channels
where more programs wait than run, or segments of the length, see below, fill the device; and where
they are few, two runs of 16 steps of 16 channels: twice as many programs.

    forward, for each state index n, over the steps t of a tile:
        a_t = exp(e_t A_n),  x_t = dt_t u_t B_tn,  h_t = a_t h_(t-1) + x_t,  y_t += C_tn h_t

    backward, steps in reverse:
        g_t = C_tn gy_t + a_(t+1) g_(t+1),  r_t = a_t g_t (what step t-1 receives)
        gC_tn = sum_d gy_t h_t      gB_tn = sum_d g_t dt_t u_t
        gu_t += dt_t B_tn g_t       gdt_t += u_t B_tn g_t
        gA_n += e_t r_t h_(t-1)     ge_t += A_n r_t h_(t-1)
        gdelta_t = (gdt_t + (gap_t ge_t where e_t is gap_t dt_t)) sigmoid(delta_t + bias)

The elapsed time e_t is the step size dt_t unless the caller gives it, except in padding steps, or
a gap_t of each step to multiply dt_t by.
Times are kept times log2(e), as exp2 wants them; B is kept times ln(2), which makes up for it.

A thread owns channels (with more than 32 states two threads share one): what is recurrent stays in
its registers, without exchange between threads. The alignment hint in `channel_offsets` is what
makes the compiler choose that layout. What the registers hold depends on the pass:

- Forward with one state: all steps of a run, scanned by serial multiply-adds. Of two runs the
  second goes from zero, and takes over the end of the first by one exchange between half-warps.
- Forward with several: all states of a channel, which take four steps a tile. They never leave the
  registers; only outputs, and for the backward pass every sixteenth step's states, are written.
- Backward: all steps of a tile, one state index after the other, for it needs the h_t of a tile
  from its first step and the g_t from its last. What is one step away, h_(t-1) and a_(t+1), comes
  by scans too, whose arithmetic the compiler drops: see `scan_steps`.

What threads have in common is loaded once and shared: B and C of a tile's tokens. The loads of the
next tile are issued before this one is computed, and its tokens are there by then; backward only
with one state, and not where all programs run at a time if each has fewer registers: then that is
faster. gB and gC are sums over channels of 32 values a tile, which a butterfly leaves spread over
the lanes (`_sum_channels`).

When batch x routes x channels cannot fill the device, the length is split into segments, as many as
run at a time, or in two waves, by the registers that a pass takes, but not a short one of one
state, for which two passes cost more: a first pass computes the end of each segment but the last
from a zero state, and its total time, `carry_kernel` carries the ends across segments (h_start' =
exp(A sum e) h_start + end), the main pass starts from them. The backward pass does the same with r
from the other end.

Sums over channel blocks, batch and segments are left in parts, which are added up in a fixed order
afterwards (`..op`): no atomics, the same bits every run. All arithmetic is float32. What is rounded
are results, and several states of bfloat16 tokens, kept from one pass to the other.
"""

from .backward import backward_kernel
from .carry import carry_kernel
from .forward import forward_kernel

__all__ = ["backward_kernel", "carry_kernel", "forward_kernel"]
