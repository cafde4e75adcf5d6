"""The kernels compile for a GPU, and to the layout they were written for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def kernels(tmp_path_factory) -> list[tuple[str, int, int]]:
    """(name, bytes of code, warp shuffles) of each kernel compiled."""
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")),
    }
    run = subprocess.run(
        [sys.executable, "-m", "tests.ops.compile_for_gpu"],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines()]
    return [(name, int(size), int(shuffles)) for name, size, shuffles in lines]


def test_every_kernel_compiles(kernels):
    assert {name for name, _, _ in kernels} == {
        "forward_kernel", "carry_kernel", "backward_kernel",
        "_hsm_ssd_forward_kernel", "_hsm_ssd_backward_kernel",
        "conv_kernel", "conv3x3_kernel", "conv4x1_kernel",
        "taps_grad_kernel", "taps_grad3x3_kernel", "taps_grad4x1_kernel",
        "_state_fusion_kernel", "_state_fusion_input_grad_kernel",
        "_state_fusion_weight_grad_kernel",
        "_ssd_decay_kernel", "_ssd_states_kernel", "_ssd_output_kernel", "_ssd_gradient_kernel",
        "_ssd_decay_gradient_kernel",
    }  # fmt: skip
    assert all(size > 0 for _, size, _ in kernels)


def test_steps_of_a_channel_stay_in_one_thread(kernels):
    """Scanning steps that are spread over a warp would take hundreds of shuffles a tile.

    Backward there are those of the sums over channels.
    """
    scans = "forward_kernel", "backward_kernel"
    assert all(shuffles < 32 for name, _, shuffles in kernels if name in scans)


def test_tokens_of_a_channel_are_summed_in_one_thread(kernels):
    """Four warps add up nine taps of at most two channels a thread at the end, by 36 shuffles."""
    counts = [n for name, _, n in kernels if name == "_state_fusion_weight_grad_kernel"]
    assert max(counts) <= 9 * 2 * 2
