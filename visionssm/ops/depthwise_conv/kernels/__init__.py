"""Depthwise convolution in Triton: forward, and backward for the maps and for the taps.

    forward     y[t, r]    = act(bias[r] + sum over taps of w[tap, r] x[t + shift(tap)])
    backward    gx[t]      = sum over r and taps of w[tap, r] gy[t - shift(tap), r]
                gw[tap, r] = sum over t of gy[t, r] x[t + shift(tap)]

r counts the repetitions, output channels that read the same input channel; mirrored, the odd ones
have shifts of their own. Tokens outside of the image count as zero. An activation's input is not
kept: the backward pass computes it again and multiplies gy with the slope there, in one kernel.

3 x 3 taps in the middle, what nearly every mixer has: a program owns a column of tiles, some tokens
of a row (of all images, side by side) by a block of channels, and walks down the rows. It loads
three tiles a row, left, centre and right, each of which goes into the three rows it belongs to:
three sums are under way. For the gradient of the taps three rows of gy are kept instead.

4 x 1 taps on one column, what scans of sequences have: a program walks down the rows likewise, for
one repetition, and keeps the last four tiles; the adjoint keeps those of both repetitions.

Other taps: all images' tokens stand in one row-major list, and a program owns a tile of them by a
block of channels, which it loads once a tap, shifted; the cache answers most of that.

gw and the gradient of the bias go through partial sums and a reduction in a fixed order: no
atomics, the same bits every run. All arithmetic is float32.
"""

from .conv3x3 import conv3x3_kernel, taps_grad3x3_kernel
from .conv4x1 import conv4x1_kernel, taps_grad4x1_kernel
from .general import conv_kernel, taps_grad_kernel

__all__ = [
    "conv3x3_kernel",
    "conv4x1_kernel",
    "conv_kernel",
    "taps_grad3x3_kernel",
    "taps_grad4x1_kernel",
    "taps_grad_kernel",
]
