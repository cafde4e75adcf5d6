"""Compile every kernel of a forward and backward call for Hopper, on a machine without a GPU.

The interpreter runs the kernels' Python; this shows that the compiler accepts it, with the
specialisations that a real call would have. `test_kernels_compile.py` runs it in a process of its
own, because the interpreter is chosen when a kernel is decorated. Prints one line a kernel: name,
bytes of machine code, warp shuffles.
"""

from __future__ import annotations

import importlib

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

triton_impl = importlib.import_module("visionssm.ops.selective_scan.triton_impl")
hsm_ssd_impl = importlib.import_module("visionssm.ops.hsm_ssd.triton_impl")
depthwise_conv_impl = importlib.import_module("visionssm.ops.depthwise_conv.triton_impl")
ssd_impl = importlib.import_module("visionssm.ops.ssd.triton_impl")
state_fusion_impl = importlib.import_module("visionssm.ops.state_fusion.triton_impl")


class HopperWithoutDevice:
    """As much of a Triton driver as compiling asks for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


class CompileOnly:
    """A kernel whose launch stops at the compiled code."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        def compile_kernel(*args, **kwargs):
            compiled = self.kernel.warmup(*args, grid=grid, **kwargs)
            shuffles = compiled.asm["ptx"].count("shfl.sync")
            print(self.kernel.fn.__name__, len(compiled.asm["cubin"]), shuffles)

        return compile_kernel


def compile_call(
    b: int, k: int, l: int, d: int, n: int, segment: int, time: str = "step sizes"
) -> None:
    """Compile what a call of this size launches, CPU tensors standing in for CUDA's."""
    triton_impl._split_length = lambda length, *_: triton_impl.Segments(
        -(-length // segment), segment
    )
    u, delta, B, C = (torch.zeros(b, k, l, width).bfloat16() for width in (d, d, n, n))
    A, D, delta_bias = torch.zeros(k, n, d), torch.zeros(k, d), torch.zeros(k, d)
    elapsed = torch.zeros(b, k, l, d) if time == "elapsed" else None
    gaps = torch.ones(b, k, l) if time == "gaps" else None
    routes = torch.zeros(k, l, dtype=torch.int32)
    inputs = (u, delta, A, B, C, D, delta_bias, elapsed, gaps, routes)
    _, _, states = triton_impl.selective_scan_forward(*inputs, True, 1, True, True)
    grad_last_state = torch.zeros(b, k, d, n)
    triton_impl.selective_scan_backward(delta, grad_last_state, *inputs, states, True, False)


def compile_hsm_ssd(b: int, l: int, d: int, n: int) -> None:
    """Compile what a call of this size launches, dt and B being parts of one projection."""
    for name in ("_hsm_ssd_forward_kernel", "_hsm_ssd_backward_kernel"):
        setattr(hsm_ssd_impl, name, CompileOnly(getattr(hsm_ssd_impl, name)))
    hsm_ssd_impl.check_device = lambda name, x: None
    B, _, dt = torch.zeros(b, l, 3 * n).bfloat16().split(n, dim=-1)
    x = torch.zeros(b, l, d).bfloat16()
    state, log_total = hsm_ssd_impl.hsm_ssd_forward(x, dt, B)
    hsm_ssd_impl.hsm_ssd_backward(state, x, dt, B, state, log_total)


def compile_depthwise_conv(b: int, h: int, w: int, d: int) -> None:
    """Compile what a call of this size launches, x being a share of a projection."""
    kernels = ("conv", "conv3x3", "conv4x1", "taps_grad", "taps_grad3x3", "taps_grad4x1")
    for name in (f"{kernel}_kernel" for kernel in kernels):
        setattr(depthwise_conv_impl, name, CompileOnly(getattr(depthwise_conv_impl, name)))
    depthwise_conv_impl.check_device = lambda name, x: None
    x = torch.zeros(b, h, w, 2 * d).bfloat16()[..., :d]
    for *taps, padding, mirrored in (
        (3, 3, d, (1, 1), False), (4, 1, 2 * d, (3, 0), True), (7, 1, d, (3, 0), False)
    ):  # fmt: skip
        x = x if taps[0] == 3 else x[:, :, :1]
        taps, bias = torch.zeros(taps), torch.zeros(taps[-1])
        y = depthwise_conv_impl.depthwise_conv_forward(x, taps, bias, *padding, True, mirrored)
        depthwise_conv_impl.depthwise_conv_backward(y, x, taps, bias, *padding, True, mirrored)


def compile_state_fusion(b: int, h: int, w: int, widths: tuple[int, ...]) -> None:
    """Compile what calls of these sizes launch."""
    for name in ("kernel", "input_grad_kernel", "weight_grad_kernel"):
        kernel = getattr(state_fusion_impl, f"_state_fusion_{name}")
        setattr(state_fusion_impl, f"_state_fusion_{name}", CompileOnly(kernel))
    state_fusion_impl.check_device = lambda name, x: None
    for d in widths:
        x, weight = torch.zeros(b, h, w, d).bfloat16(), torch.zeros(3, 3, 3, d)
        y = state_fusion_impl.state_fusion_forward(x, weight)
        state_fusion_impl.state_fusion_backward(y, x, weight)


def compile_ssd(b: int, l: int, h: int, p: int, g: int, n: int) -> None:
    """Compile what a call of this size launches, B and C being parts of one projection."""
    for name in ("decay", "states", "output", "gradient", "decay_gradient"):
        kernel = getattr(ssd_impl, f"_ssd_{name}_kernel")
        setattr(ssd_impl, f"_ssd_{name}_kernel", CompileOnly(kernel))
    ssd_impl.check_device = lambda name, x: None
    x, dt = torch.zeros(b, l, h, p).bfloat16(), torch.zeros(b, l, h).bfloat16()
    B, C = torch.zeros(b, l, g, 2 * n).bfloat16().split(n, dim=-1)
    A = D = dt_bias = torch.zeros(h)
    inputs = (x, dt, A, B, C, D, dt_bias, None, True, None)
    _, final = ssd_impl.ssd_forward(*inputs)
    ssd_impl.ssd_backward(x, final, *inputs)


def main() -> None:
    driver.set_active(HopperWithoutDevice())
    for name in ("forward_kernel", "carry_kernel", "backward_kernel"):
        setattr(triton_impl, name, CompileOnly(getattr(triton_impl, name)))
    triton_impl.check_device = lambda name, x: None
    compile_call(2, 4, 196, 96, 1, segment=196)
    compile_call(1, 2, 256, 64, 1, segment=128)
    compile_call(4, 4, 196, 128, 1, segment=196)  # wide tiles forward
    compile_call(2, 1, 197, 128, 16, segment=197)
    compile_call(1, 2, 256, 64, 1, segment=128, time="elapsed")
    compile_call(4, 1, 197, 128, 16, segment=197, time="elapsed")
    compile_call(1, 2, 256, 64, 1, segment=128, time="gaps")
    compile_call(4, 1, 197, 128, 16, segment=197, time="gaps")
    compile_hsm_ssd(2, 196, 128, 49)
    compile_depthwise_conv(2, 14, 14, 128)
    compile_state_fusion(2, 14, 14, (96, 128))
    compile_ssd(2, 196, 4, 64, 1, 128)


if __name__ == "__main__":
    main()
